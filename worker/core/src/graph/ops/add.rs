//! The residual sum.

use super::super::TensorType;
use super::operator::kept;
use super::{Arity, Given, OnnxInput, OnnxNode, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use std::cmp::Ordering;

/// Sum of two values of one type.
#[derive(Debug)]
pub(super) struct Add;

impl Operator for Add {
    fn kind(&self) -> &'static str {
        "Add"
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        match given.inputs[0] == given.inputs[1] {
            true => Ok(given.inputs[0].clone()),
            false => Err(format!("adds {} and {}", given.inputs[0], given.inputs[1])),
        }
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    /// The skip input: the one with fewer convolutions behind it, for the other's convolution absorbs the sum (a Q/DQ
    /// pair on it splits that fusion). When both have equally many neither absorbs it for certain, and both are
    /// quantized.
    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        if target.integer_neighbours() {
            return Some(vec![0, 1]);
        }
        Some(match site.absorbing[0].cmp(&site.absorbing[1]) {
            Ordering::Less => vec![0],
            Ordering::Greater => vec![1],
            Ordering::Equal => vec![0, 1],
        })
    }

    fn onnx(&self, _: &Shapes) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::new("Add", vec![OnnxInput::Values])])
    }
}
