//! `[b, C, H, W] -> [b, C * H * W]`.

use super::super::ExecError;
use super::{Call, Forward};
use tch::Tensor;

/// All values of an image in one row.
pub(super) struct Flatten;

impl Forward for Flatten {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_flatten(1, -1)?)
    }
}
