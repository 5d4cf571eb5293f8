//! Sums and products of values.

use super::super::ExecError;
use super::{Call, Forward};
use crate::graph::Scale;
use tch::Tensor;

/// Sum of two values.
pub(super) struct Add;

impl Forward for Add {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.inputs[0].f_add(call.inputs[1])?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}

/// Product of two values.
pub(super) struct Mul;

impl Forward for Mul {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.inputs[0].f_mul(call.inputs[1])?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}

impl Forward for Scale {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_mul_scalar(f64::from(self.factor))?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}
