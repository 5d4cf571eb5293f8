//! Functions of one value, element by element.

use super::super::ExecError;
use super::{Call, Forward};
use tch::Tensor;

/// `max(x, 0)`.
pub(super) struct Relu;

impl Forward for Relu {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(if call.may_overwrite { call.x().shallow_clone().f_relu_()? } else { call.x().f_relu()? })
    }
}

/// `1 / (1 + exp(-x))`.
pub(super) struct Sigmoid;

impl Forward for Sigmoid {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_sigmoid()?)
    }
}
