//! Functions of one value, element by element.

use super::super::ExecError;
use super::{Call, Forward};
use crate::graph::Clip;
use tch::Tensor;

/// `max(x, 0)`.
pub(super) struct Relu;

impl Forward for Relu {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(if call.may_overwrite { call.x().shallow_clone().f_relu_()? } else { call.x().f_relu()? })
    }
}

/// As PyTorch has it: ReLU6's gradient is 0 at the bounds, that of any other clip 1.
impl Forward for Clip {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let x = call.x();
        Ok(match (*self == Clip::RELU6, call.may_overwrite) {
            (true, true) => x.shallow_clone().f_relu6_()?,
            (true, false) => x.f_relu6()?,
            (false, _) => x.f_clamp(f64::from(self.min), f64::from(self.max))?,
        })
    }
}

/// `1 / (1 + exp(-x))`.
pub(super) struct Sigmoid;

impl Forward for Sigmoid {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_sigmoid()?)
    }
}

/// `min(max(x / 6 + 1 / 2, 0), 1)`.
pub(super) struct HardSigmoid;

impl Forward for HardSigmoid {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_hardsigmoid()?)
    }
}

/// `x * sigmoid(x)`.
pub(super) struct Silu;

impl Forward for Silu {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_silu()?)
    }
}

/// `x * hard_sigmoid(x)`.
pub(super) struct HardSwish;

impl Forward for HardSwish {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_hardswish()?)
    }
}

/// `x * (1 + erf(x / sqrt(2))) / 2`.
pub(super) struct Gelu;

impl Forward for Gelu {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_gelu("none")?)
    }
}
