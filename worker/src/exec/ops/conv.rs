//! Convolution.

use super::super::ExecError;
use super::{Call, Forward, product};
use crate::graph::Conv;
use tch::Tensor;

impl Forward for Conv {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let pair = |p: [usize; 2]| p.map(|v| v as i64);
        let (stride, dilation, groups) = (pair(self.stride), pair(self.dilation), self.groups as i64);
        let weight = call.parameter(0)?;
        let padded;
        let (x, padding) = match self.padding.as_symmetric() {
            Some(both) => (call.x(), pair(both)),
            None => {
                let p = self.padding;
                padded = call.x().f_constant_pad_nd([p.left, p.right, p.top, p.bottom].map(|v| v as i64))?;
                (&padded, [0, 0])
            }
        };
        Ok(product(x, weight, call.leaf(1), |x, w, b| x.f_conv2d(w, b, stride, padding, dilation, groups))?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}
