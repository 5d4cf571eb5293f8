//! One rank: nothing to communicate.

use super::{Collective, CollectiveError, ReduceOp};
use tch::Tensor;

/// The collective of a world of one.
#[derive(Debug, Default, Clone, Copy)]
pub struct Local;

impl Collective for Local {
    fn rank(&self) -> usize {
        0
    }
    fn world_size(&self) -> usize {
        1
    }
    fn all_reduce(&self, _: &Tensor, _: ReduceOp) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn broadcast(&self, _: &Tensor, _: usize) -> Result<(), CollectiveError> {
        Ok(())
    }
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        Ok(vec![tensor.copy()])
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        Ok(())
    }
}
