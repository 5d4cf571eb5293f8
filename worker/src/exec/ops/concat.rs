//! Values joined along a dimension.

use super::super::ExecError;
use super::{Call, Forward};
use crate::graph::Concat;
use tch::Tensor;

impl Forward for Concat {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        // A value that is the same for every image has a batch of 1.
        let batch = call.inputs.iter().map(|t| t.size()[0]).max().unwrap_or(1);
        let whole = |t: &&Tensor| {
            let mut size = t.size();
            size[0] = batch;
            t.f_expand(size, false)
        };
        let whole: Vec<Tensor> = call.inputs.iter().map(whole).collect::<Result<_, _>>()?;
        Ok(Tensor::f_cat(&whole, 1 + self.axis as i64)?)
    }
}
