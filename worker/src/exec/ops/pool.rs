//! Pooling.

use super::super::ExecError;
use super::{Call, Forward};
use crate::graph::{AvgPool, Layout, Window};
use crate::native;
use tch::{Device, Tensor};

impl Forward for Window {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let both = |v: usize| [v as i64, v as i64];
        let (kernel, stride, padding) = (both(self.kernel), both(self.stride), both(self.padding));
        let x = call.x();
        // Of channels-last images libtorch's kernels on GPUs take several times as long as memory does.
        let ours = x.device() != Device::Cpu && call.layout == Layout::Nhwc && self.kernel <= 16;
        if ours {
            let windows = [self.kernel, self.stride, self.padding].map(|v| v as i64);
            let at = |source| ExecError::Native { node: call.node.name.clone(), source };
            return native::max_pool(x, windows).map_err(at);
        }
        Ok(x.f_max_pool2d(kernel, stride, padding, [1, 1], false)?)
    }
}

impl Forward for AvgPool {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let pair = |p: [usize; 2]| p.map(|v| v as i64);
        let (kernel, stride, padding) = (pair(self.kernel), pair(self.stride), pair(self.padding));
        Ok(call.x().f_avg_pool2d(kernel, stride, padding, false, self.count_include_pad, None)?)
    }
}

/// Mean over height and width.
pub(super) struct GlobalAvgPool;

impl Forward for GlobalAvgPool {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_adaptive_avg_pool2d([1, 1])?)
    }
}
