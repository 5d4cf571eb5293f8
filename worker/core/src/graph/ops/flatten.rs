//! `[C, H, W] -> [C * H * W]`.

use super::super::TensorType;
use super::operator::kept;
use super::{Given, OnnxNode, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;

/// All values of an image in one row.
#[derive(Debug)]
pub(super) struct Flatten;

impl Operator for Flatten {
    fn kind(&self) -> &'static str {
        "Flatten"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let input = given.inputs[0];
        Ok(TensorType { shape: vec![input.shape.iter().product()], dtype: input.dtype })
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &Shapes) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("Flatten").int("axis", 1)])
    }
}
