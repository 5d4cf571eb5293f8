//! Sums and products of values.

use super::super::TensorType;
use super::operator::{broadcast, kept};
use super::{Arity, Given, OnnxInput, OnnxNode, OnnxScope, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// The type of two values of one element type, broadcast.
fn joined(given: &Given, verb: &str) -> Result<TensorType, String> {
    let [a, b] = [given.inputs[0], given.inputs[1]];
    let shape = broadcast(&a.shape, &b.shape).filter(|_| a.dtype == b.dtype);
    shape.map(|shape| TensorType { shape, dtype: a.dtype }).ok_or_else(|| format!("{verb} {a} and {b}"))
}

/// Sum of two values; a dimension of 1 is repeated.
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
        joined(given, "adds")
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    /// The skip input: the one with fewer convolutions behind it, for the other's convolution absorbs the sum (a Q/DQ
    /// pair on it splits that fusion). When both have equally many neither absorbs it for certain, and both are
    /// quantized. The residual stream of tokens stays in floating point.
    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        if !site.is_convolutional() {
            return Some(vec![]);
        }
        if target.integer_neighbours() {
            return Some(vec![0, 1]);
        }
        Some(match site.absorbing[0].cmp(&site.absorbing[1]) {
            Ordering::Less => vec![0],
            Ordering::Greater => vec![1],
            Ordering::Equal => vec![0, 1],
        })
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::new("Add", vec![OnnxInput::Values])])
    }
}

/// Product of two values, element by element; a dimension of 1 is repeated, as that of a channel's gate is.
#[derive(Debug)]
pub(super) struct Mul;

impl Operator for Mul {
    fn kind(&self) -> &'static str {
        "Mul"
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        joined(given, "multiplies")
    }

    /// Of two values that are never negative; two that always are would do, but no sign says so.
    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        let integers = target.integer_neighbours() && site.is_convolutional();
        Some(if integers { vec![0, 1] } else { vec![] })
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::new("Mul", vec![OnnxInput::Values])])
    }
}

/// The value times a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// The number.
    pub factor: f32,
}

impl Operator for Scale {
    fn kind(&self) -> &'static str {
        "Scale"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        match self.factor.is_finite() {
            true => Ok(given.inputs[0].clone()),
            false => Err(format!("multiplies by {}", self.factor)),
        }
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        if self.factor >= 0.0 { kept(inputs) } else { Sign::Signed }
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::new("Mul", vec![OnnxInput::Value(0), OnnxInput::Number(self.factor)])])
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("Scale[{}]", self.factor)
    }
}
