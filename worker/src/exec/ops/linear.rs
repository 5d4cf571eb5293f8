//! Fully connected layer.

use super::super::ExecError;
use super::{Call, Forward, product};
use crate::graph::Linear;
use crate::native::Taps;
use tch::Tensor;

impl Forward for Linear {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        if let Some(y) = call.product_of_codes(Taps { stride: [1, 1], padding: [0, 0], dilation: [1, 1] })? {
            return Ok(y);
        }
        let weight = call.parameter(0)?;
        Ok(product(call.x(), weight, call.leaf(1), |x, w, b| x.f_linear(w, b))?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}
