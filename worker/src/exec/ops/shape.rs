//! The same numbers in another shape.

use super::super::ExecError;
use super::{Call, Forward};
use crate::graph::{Pad, Reshape, Slice, Transpose};
use tch::Tensor;

/// All values of an image in one row.
pub(super) struct Flatten;

impl Forward for Flatten {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_flatten(1, -1)?)
    }
}

impl Forward for Reshape {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let x = call.x();
        let shape: Vec<i64> =
            x.size()[..1].iter().copied().chain(self.shape.iter().map(|&v| v as i64)).collect();
        Ok(x.f_reshape(shape)?)
    }
}

impl Forward for Transpose {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let perm: Vec<i64> = [0].into_iter().chain(self.perm.iter().map(|&i| 1 + i as i64)).collect();
        Ok(call.x().f_permute(perm)?)
    }
}

impl Forward for Slice {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_narrow(1 + self.axis as i64, self.start as i64, self.len as i64)?)
    }
}

impl Forward for Pad {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        // libtorch counts from the last dimension.
        let sides = self.before.iter().zip(&self.after).rev().flat_map(|(&b, &a)| [b as i64, a as i64]);
        Ok(call.x().f_constant_pad_nd(sides.collect::<Vec<_>>())?)
    }
}
