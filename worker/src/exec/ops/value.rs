//! Values that do not come from the image. They have a batch of 1, which what reads them repeats.

use super::super::{ExecError, kind};
use super::{Call, Forward};
use crate::graph::{ClassToken, Constant, Parameter};
use tch::Tensor;

impl Forward for Parameter {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.parameter(0)?.f_to_kind(kind(self.compute))?)
    }
}

impl Forward for Constant {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let shape: Vec<i64> = [1].into_iter().chain(self.shape.iter().map(|&v| v as i64)).collect();
        let values = Tensor::f_from_slice(&self.values)?.f_view(shape.as_slice())?;
        Ok(values.f_to_device(call.device())?.f_to_kind(kind(self.compute))?)
    }
}

impl Forward for ClassToken {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let x = call.x();
        let token = call.parameter(0)?.f_to_kind(x.kind())?.f_expand([x.size()[0], -1, -1], false)?;
        Ok(Tensor::f_cat(&[&token, x], 1)?)
    }
}
