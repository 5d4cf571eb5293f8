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
        let all = input.shape.iter().try_fold(1usize, |all, &side| all.checked_mul(side));
        let all = all.ok_or_else(|| format!("{input} has more values than can be counted"))?;
        Ok(TensorType { shape: vec![all], dtype: input.dtype })
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
