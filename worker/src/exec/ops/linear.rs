//! Fully connected layer.

use super::super::ExecError;
use super::{Call, Forward, product};
use crate::graph::Linear;
use tch::Tensor;

impl Forward for Linear {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let weight = call.parameter(0)?;
        Ok(product(call.x(), weight, call.leaf(1), |x, w, b| x.f_linear(w, b))?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}
