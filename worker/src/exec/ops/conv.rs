//! Convolution.

use super::super::ExecError;
use super::{Call, Forward, product};
use crate::graph::Conv;
use crate::native::{self, Taps};
use tch::{Device, Kind, Tensor};

impl Forward for Conv {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let pair = |p: [usize; 2]| p.map(|v| v as i64);
        let (stride, dilation, groups) = (pair(self.stride), pair(self.dilation), self.groups as i64);
        let weight = call.parameter(0)?;
        if let Some(padding) = self.padding.as_symmetric().map(pair)
            && let Some(y) = call.product_of_codes(Taps { stride, padding, dilation })?
        {
            return Ok(y);
        }
        let padded;
        let (x, padding) = match self.padding.as_symmetric() {
            Some(both) => (call.x(), pair(both)),
            None => {
                let p = self.padding;
                padded = call.x().f_constant_pad_nd([p.left, p.right, p.top, p.bottom].map(|v| v as i64))?;
                (&padded, [0, 0])
            }
        };
        product(x, weight, call.leaf(1), |x, w, b| {
            if !strides_by_channels(x, w, stride) {
                return Ok(x.f_conv2d(w, b, stride, padding, dilation, groups)?);
            }
            native::depthwise(x, w, b, Taps { stride, padding, dilation })
                .map_err(|source| ExecError::Native { node: call.node.name.clone(), source })
        })
    }

    fn value_is_free(&self) -> bool {
        true
    }
}

/// Whether [`native::depthwise`] has the faster gradient: that of a depthwise convolution with a stride, by channels-last
/// images in BF16 on the CPU (docs/performance.md; in FP32, in which products are computed on CPUs before AVX-512, oneDNN's is
/// as fast).
fn strides_by_channels(x: &Tensor, weight: &Tensor, stride: [i64; 2]) -> bool {
    let (of_x, of_weight) = (x.size(), weight.size());
    let depthwise = of_x.len() == 4 && of_x[1] > 1 && of_weight[..2] == [of_x[1], 1];
    let images = x.kind() == Kind::BFloat16 && x.device() == Device::Cpu && x.stride()[1] == 1;
    depthwise && stride != [1, 1] && images && x.requires_grad()
}
