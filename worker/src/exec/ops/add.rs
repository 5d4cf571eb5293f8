//! The residual sum.

use super::super::ExecError;
use super::{Call, Forward};
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
