//! Change of element type.

use super::super::{ExecError, kind};
use super::{Call, Forward};
use crate::graph::Cast;
use tch::Tensor;

impl Forward for Cast {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_to_kind(kind(self.to))?)
    }
}
