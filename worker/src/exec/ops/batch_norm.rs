//! Batch normalisation, with the batch's statistics or the running ones.

use super::super::ExecError;
use super::{Call, Forward};
use crate::graph::BatchNorm;
use tch::Tensor;

impl Forward for BatchNorm {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let [mean, var] = call.buffers else {
            let what = "is a BatchNorm without running mean and variance".into();
            return Err(ExecError::State { name: call.node.name.clone(), what });
        };
        let batch = call.mode().batch_stats;
        if batch {
            ensure_variance(&call.node.name, call.x())?;
        }
        let (mean, var) = (call.pass.statistic(*mean)?, call.pass.statistic(*var)?);
        // Momentum 1 leaves exactly this microbatch's statistics in the scratch; the step's update is made once from the
        // sum over all microbatches.
        let (gamma, beta) = (call.leaf(0), call.leaf(1));
        Ok(call.x().f_batch_norm(gamma, beta, Some(&mean), Some(&var), batch, 1.0, self.eps, true)?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}

/// Fails where the channels of `[b, C, ...]` have one value each, of which there is no variance.
pub(in crate::exec) fn ensure_variance(node: &str, x: &Tensor) -> Result<(), ExecError> {
    match x.size().get(1) {
        Some(&channels) if x.numel() as i64 == channels => Err(ExecError::OneValue { node: node.into() }),
        _ => Ok(()),
    }
}
