//! What attention is made of, besides layers: products of two values, and softmax.

use super::super::TensorType;
use super::{Arity, Given, OnnxInput, OnnxNode, OnnxScope, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// Matrix product of two values over their last two dimensions; those before them are alike. Both are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatMul {
    /// Whether the second value is read with its last two dimensions exchanged.
    pub transpose_b: bool,
}

impl Operator for MatMul {
    fn kind(&self) -> &'static str {
        "MatMul"
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let [a, b] = [given.inputs[0], given.inputs[1]];
        let misfit =
            || format!("multiplies {a} and {b}{}", if self.transpose_b { " transposed" } else { "" });
        let ([before @ .., m, k], [alike @ .., p, q]) = (&a.shape[..], &b.shape[..]) else {
            return Err(misfit());
        };
        let (inner, n) = if self.transpose_b { (q, p) } else { (p, q) };
        if k != inner || before != alike || a.dtype != b.dtype {
            return Err(misfit());
        }
        Ok(TensorType { shape: [before, &[*m, *n]].concat(), dtype: a.dtype })
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![0, 1])
    }

    fn is_product(&self) -> bool {
        true
    }

    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        if !self.transpose_b {
            return Ok(vec![OnnxNode::new("MatMul", vec![OnnxInput::Values])]);
        }
        let mut perm: Vec<usize> = (0..scope.rank()).collect();
        let last = perm.len();
        perm.swap(last - 2, last - 1);
        Ok(vec![
            OnnxNode::new("Transpose", vec![OnnxInput::Value(1)]).sizes("perm", &perm),
            OnnxNode::new("MatMul", vec![OnnxInput::Value(0), OnnxInput::Made(0)]),
        ])
    }

    fn describe(&self, _: &Shapes) -> String {
        if self.transpose_b { "MatMul[transposed]".into() } else { "MatMul".into() }
    }
}

/// Exponentials over their sum, along the last dimension. It stays in floating point.
#[derive(Debug)]
pub(super) struct Softmax;

impl Operator for Softmax {
    fn kind(&self) -> &'static str {
        "Softmax"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        match given.inputs[0].shape.is_empty() {
            true => Err("wants a value with a dimension".into()),
            false => Ok(given.inputs[0].clone()),
        }
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        Sign::Unsigned
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn stays_float(&self) -> bool {
        true
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("Softmax").int("axis", -1)])
    }
}
