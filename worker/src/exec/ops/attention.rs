//! Products of two values, and softmax.

use super::super::ExecError;
use super::{Call, Forward, product};
use crate::graph::MatMul;
use tch::{Kind, Tensor};

impl Forward for MatMul {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let b = call.inputs[1];
        let b = if self.transpose_b { b.f_transpose(-2, -1)? } else { b.shallow_clone() };
        Ok(product(call.x(), &b, None, |a, b, _| a.f_matmul(b))?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}

/// Softmax along the last dimension, in FP32.
pub(super) struct Softmax;

impl Forward for Softmax {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let x = call.x();
        Ok(x.f_softmax(-1, Kind::Float)?.f_to_kind(x.kind())?)
    }
}
