//! Counts the collectives that a rank enters, so that others can tell who is waited for.

use super::{Collective, CollectiveError, ReduceOp};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tch::Tensor;

/// Wraps a collective. A call counts as entered once what this rank had to do before it is done: from then on it waits
/// for the others. All ranks enter the same calls in the same order, so the one with the lower count is waited for.
pub struct Counted {
    inner: Box<dyn Collective>,
    entered: Arc<AtomicU64>,
}

impl Counted {
    /// Counts the calls of `inner` in `entered`.
    pub fn new(inner: Box<dyn Collective>, entered: Arc<AtomicU64>) -> Self {
        Self { inner, entered }
    }

    fn enter(&self, call: &'static str) -> Result<&dyn Collective, CollectiveError> {
        self.inner.ready(call)?;
        self.entered.fetch_add(1, Ordering::SeqCst);
        Ok(&*self.inner)
    }
}

impl Collective for Counted {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn world_size(&self) -> usize {
        self.inner.world_size()
    }
    fn ready(&self, call: &'static str) -> Result<(), CollectiveError> {
        self.inner.ready(call)
    }
    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<(), CollectiveError> {
        self.enter("all_reduce")?.all_reduce(tensor, op)
    }
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        self.enter("broadcast")?.broadcast(tensor, root)
    }
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        self.enter("all_gather")?.all_gather(tensor)
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.enter("barrier")?.barrier()
    }
    fn finish(&mut self) -> Result<(), CollectiveError> {
        self.inner.finish()
    }
    fn abandon(&mut self) {
        self.inner.abandon();
    }
}
