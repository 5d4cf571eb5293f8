//! Functions of one value, element by element.

use super::super::TensorType;
use super::{Given, OnnxNode, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;

/// `max(x, 0)`. Engines compute it with the layer before it.
#[derive(Debug)]
pub(super) struct Relu;

impl Operator for Relu {
    fn kind(&self) -> &'static str {
        "Relu"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        Sign::Unsigned
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &Shapes) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("Relu")])
    }
}

/// `1 / (1 + exp(-x))`. No rule says how a runtime computes it in integers.
#[derive(Debug)]
pub(super) struct Sigmoid;

impl Operator for Sigmoid {
    fn kind(&self) -> &'static str {
        "Sigmoid"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        Sign::Unsigned
    }

    fn onnx(&self, _: &Shapes) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("Sigmoid")])
    }
}
