//! Values joined along the channels.

use super::super::ExecError;
use super::{Call, Forward};
use tch::Tensor;

/// `[b, C1, H, W], [b, C2, H, W] -> [b, C1 + C2, H, W]`.
pub(super) struct Concat;

impl Forward for Concat {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(Tensor::f_cat(call.inputs, 1)?)
    }
}
