//! Counts the collectives that a rank enters, so that others can tell who is waited for, and notes them for traces.

use super::{Call, Calls, Collective, CollectiveError, Entered, OnTheWire, Pending, ReduceOp, bytes};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tch::Tensor;

/// Wraps a collective. A call counts as entered once what this rank had to do before it is done: from then on it waits
/// for the others. All ranks enter the same calls in the same order, so the one with the lower count is waited for.
pub struct Counted {
    inner: Box<dyn Collective>,
    entered: Arc<AtomicU64>,
    noted: Option<Calls>,
}

impl Counted {
    /// Counts the calls of `inner` in `entered`.
    pub fn new(inner: Box<dyn Collective>, entered: Arc<AtomicU64>) -> Self {
        Self { inner, entered, noted: None }
    }

    /// The same, which notes calls that move tensors in `calls`.
    pub fn noting(self, calls: Calls) -> Self {
        Self { noted: Some(calls), ..self }
    }

    fn enter(&self, call: &'static str) -> Result<&dyn Collective, CollectiveError> {
        self.inner.ready(call)?;
        self.entered.fetch_add(1, Ordering::SeqCst);
        Ok(&*self.inner)
    }

    fn moving<T>(
        &self,
        call: &'static str,
        tensor: &Tensor,
        run: impl FnOnce(&dyn Collective) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        let inner = self.enter(call)?;
        let begun = Instant::now();
        let done = run(inner)?;
        if let Some(noted) = &self.noted {
            noted.add(Call { bytes: bytes(tensor), begun, ended: Instant::now() });
        }
        Ok(done)
    }
}

/// A call that was started, and is noted once it is over.
struct Noting(Box<dyn Pending>, Calls, usize);

impl Pending for Noting {
    fn wait(self: Box<Self>) -> Result<OnTheWire, CollectiveError> {
        let wire = self.0.wait()?;
        self.1.add(Call { bytes: self.2, begun: wire.begun, ended: wire.ended });
        Ok(wire)
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
        self.moving("all_reduce", tensor, |inner| inner.all_reduce(tensor, op))
    }
    fn start_all_reduce(
        &self,
        tensor: &Tensor,
        op: ReduceOp,
        entered: Entered,
    ) -> Result<Box<dyn Pending>, CollectiveError> {
        let counter = self.entered.clone();
        let counting = move || {
            counter.fetch_add(1, Ordering::SeqCst);
            entered();
        };
        let call = self.inner.start_all_reduce(tensor, op, Box::new(counting))?;
        Ok(match &self.noted {
            Some(noted) => Box::new(Noting(call, noted.clone(), bytes(tensor))),
            None => call,
        })
    }
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        self.moving("broadcast", tensor, |inner| inner.broadcast(tensor, root))
    }
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        self.moving("all_gather", tensor, |inner| inner.all_gather(tensor))
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.enter("barrier")?.barrier()
    }
    fn finish(&self) -> Result<(), CollectiveError> {
        self.inner.finish()
    }
    fn abandon(&self) {
        self.inner.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Local;
    use tch::{Device, Kind};

    #[test]
    fn calls_are_counted_and_noted_with_their_bytes_until_they_are_taken() {
        let (entered, calls) = (Arc::new(AtomicU64::new(0)), Calls::default());
        let counted = Counted::new(Box::new(Local), entered.clone()).noting(calls.clone());
        let tensor = Tensor::zeros([5], (Kind::Float, Device::Cpu));
        counted.all_reduce(&tensor, ReduceOp::Sum).unwrap();
        counted.broadcast(&tensor.to_kind(Kind::Double), 0).unwrap();
        counted.barrier().unwrap();
        assert_eq!(entered.load(Ordering::SeqCst), 3);
        let taken = calls.take();
        assert_eq!(taken.iter().map(|c| c.bytes).collect::<Vec<_>>(), [20, 40]);
        assert!(taken[0].begun <= taken[0].ended && taken[0].ended <= taken[1].begun);
        assert_eq!(calls.take(), []);
        let start = || counted.start_all_reduce(&tensor, ReduceOp::Sum, Box::new(|| ())).unwrap();
        let under_way = [start(), start()];
        assert_eq!((entered.load(Ordering::SeqCst), calls.take()), (5, vec![]), "noted when they are over");
        let wires = under_way.map(|call| call.wait().unwrap());
        assert_eq!(calls.take(), wires.map(|w| Call { bytes: 20, begun: w.begun, ended: w.ended }));
        for _ in 0..Calls::MOST + 3 {
            counted.all_reduce(&tensor, ReduceOp::Max).unwrap();
        }
        assert_eq!(calls.take().len(), Calls::MOST);
    }
}
