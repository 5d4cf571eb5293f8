//! Convolution.

use super::super::ExecError;
use super::{Call, Forward, product};
use crate::graph::Conv;
use tch::Tensor;

impl Forward for Conv {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let pair = |p: [usize; 2]| [p[0] as i64, p[1] as i64];
        let (stride, padding, groups) = (pair(self.stride), pair(self.padding), self.groups as i64);
        let weight = call.parameter(0)?;
        Ok(product(call.x(), weight, call.leaf(1), |x, w, b| {
            x.f_conv2d(w, b, stride, padding, [1, 1], groups)
        })?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}
