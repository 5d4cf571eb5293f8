//! The image batch.

use super::super::{ExecError, with_layout};
use super::{Call, Forward};
use tch::Tensor;

/// The images in the graph's memory order.
pub(super) struct Input;

impl Forward for Input {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(with_layout(call.x(), call.layout)?)
    }
}
