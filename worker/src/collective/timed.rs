//! When a rank's collectives began and ended, for traces.

use super::{Collective, CollectiveError, ReduceOp};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tch::Tensor;

/// One collective, on this rank: from its call, or from the moment its device was done with what came before, to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Bytes of the tensor.
    pub bytes: usize,
    /// Its begin.
    pub begun: Instant,
    /// Its end.
    pub ended: Instant,
}

/// The calls of a [`Timed`] collective since they were last taken.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// More than a step has; what goes beyond is not kept.
    const MOST: usize = 4096;

    /// Those there are, which are forgotten.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, call: Call) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < Self::MOST {
            all.push(call);
        }
    }
}

/// Wraps a collective, and takes note of its calls.
pub struct Timed {
    inner: Box<dyn Collective>,
    calls: Calls,
}

impl Timed {
    /// Notes the calls of `inner` in `calls`.
    pub fn new(inner: Box<dyn Collective>, calls: Calls) -> Self {
        Self { inner, calls }
    }

    fn timed<T>(
        &self,
        tensor: &Tensor,
        call: impl FnOnce(&dyn Collective) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        let begun = Instant::now();
        let done = call(&*self.inner)?;
        let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.calls.add(Call { bytes, begun, ended: Instant::now() });
        Ok(done)
    }
}

impl Collective for Timed {
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
        self.timed(tensor, |inner| inner.all_reduce(tensor, op))
    }
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        self.timed(tensor, |inner| inner.broadcast(tensor, root))
    }
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        self.timed(tensor, |inner| inner.all_gather(tensor))
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.inner.barrier()
    }
    fn finish(&mut self) -> Result<(), CollectiveError> {
        self.inner.finish()
    }
    fn abandon(&mut self) {
        self.inner.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Local;
    use tch::{Device, Kind};

    #[test]
    fn calls_are_noted_with_their_bytes_until_they_are_taken() {
        let calls = Calls::default();
        let timed = Timed::new(Box::new(Local), calls.clone());
        let tensor = Tensor::zeros([5], (Kind::Float, Device::Cpu));
        timed.all_reduce(&tensor, ReduceOp::Sum).unwrap();
        timed.broadcast(&tensor.to_kind(Kind::Double), 0).unwrap();
        timed.barrier().unwrap();
        let taken = calls.take();
        assert_eq!(taken.iter().map(|c| c.bytes).collect::<Vec<_>>(), [20, 40]);
        assert!(taken[0].begun <= taken[0].ended && taken[0].ended <= taken[1].begun);
        assert_eq!(calls.take(), []);
        for _ in 0..Calls::MOST + 3 {
            timed.all_reduce(&tensor, ReduceOp::Max).unwrap();
        }
        assert_eq!(calls.take().len(), Calls::MOST);
    }
}
