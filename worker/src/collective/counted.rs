//! Counts the collectives that a rank enters, and says which one it waits in, so that others can tell who is waited for; notes them
//! for traces.

use super::{
    Call, Calls, Collective, CollectiveError, Entered, OnTheWire, Operation, Pending, ReduceOp, Whereabouts,
    bytes,
};
use std::sync::Arc;
use std::time::Instant;
use tch::Tensor;

/// Wraps a collective. A call counts as entered once what this rank had to do before it is done: from then on it waits
/// for the others. All ranks enter the same calls in the same order, so the one with the lower count is waited for.
pub struct Counted {
    inner: Box<dyn Collective>,
    at: Arc<Whereabouts>,
    noted: Option<Calls>,
}

impl Counted {
    /// Says in `at` which calls of `inner` this rank enters, and waits in.
    pub fn new(inner: Box<dyn Collective>, at: Arc<Whereabouts>) -> Self {
        Self { inner, at, noted: None }
    }

    /// The same, which notes calls that move tensors in `calls`.
    pub fn noting(self, calls: Calls) -> Self {
        Self { noted: Some(calls), ..self }
    }

    fn moving<T>(
        &self,
        (call, operation): (&'static str, Operation),
        tensor: &Tensor,
        run: impl FnOnce(&dyn Collective) -> Result<T, CollectiveError>,
    ) -> Result<T, CollectiveError> {
        self.inner.ready(call)?;
        self.at.enter(operation, bytes(tensor));
        let _waiting = self.at.wait();
        let begun = Instant::now();
        let done = run(&*self.inner)?;
        if let Some(noted) = &self.noted {
            noted.add(Call { bytes: bytes(tensor), begun, ended: Instant::now() });
        }
        Ok(done)
    }
}

/// A call that was started, of so many bytes, and is noted once it is over.
struct Noting {
    call: Box<dyn Pending>,
    at: Arc<Whereabouts>,
    noted: Option<Calls>,
    bytes: usize,
}

impl Pending for Noting {
    fn wait(self: Box<Self>) -> Result<OnTheWire, CollectiveError> {
        let Self { call, at, noted, bytes } = *self;
        let _waiting = at.wait();
        let wire = call.wait()?;
        if let Some(noted) = noted {
            noted.add(Call { bytes, begun: wire.begun, ended: wire.ended });
        }
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
        self.moving(("all_reduce", Operation::AllReduce), tensor, |inner| inner.all_reduce(tensor, op))
    }
    fn start_all_reduce(
        &self,
        tensor: &Tensor,
        op: ReduceOp,
        entered: Entered,
    ) -> Result<Box<dyn Pending>, CollectiveError> {
        let (at, bytes) = (self.at.clone(), bytes(tensor));
        let counting = move || {
            at.enter(Operation::AllReduce, bytes);
            entered();
        };
        let call = self.inner.start_all_reduce(tensor, op, Box::new(counting))?;
        Ok(Box::new(Noting { call, at: self.at.clone(), noted: self.noted.clone(), bytes }))
    }
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        self.moving(("broadcast", Operation::Broadcast), tensor, |inner| inner.broadcast(tensor, root))
    }
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        self.moving(("all_gather", Operation::AllGather), tensor, |inner| inner.all_gather(tensor))
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.inner.ready("barrier")?;
        self.at.enter(Operation::Barrier, 0);
        let _waiting = self.at.wait();
        self.inner.barrier()
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
        let (at, calls) = (Arc::new(Whereabouts::default()), Calls::default());
        let counted = Counted::new(Box::new(Local), at.clone()).noting(calls.clone());
        let tensor = Tensor::zeros([5], (Kind::Float, Device::Cpu));
        counted.all_reduce(&tensor, ReduceOp::Sum).unwrap();
        counted.broadcast(&tensor.to_kind(Kind::Double), 0).unwrap();
        assert_eq!(at.last(), Some((Operation::Broadcast, 40)));
        counted.barrier().unwrap();
        assert_eq!((at.entered(), at.last(), at.waits()), (3, Some((Operation::Barrier, 0)), false));
        let taken = calls.take();
        assert_eq!(taken.iter().map(|c| c.bytes).collect::<Vec<_>>(), [20, 40]);
        assert!(taken[0].begun <= taken[0].ended && taken[0].ended <= taken[1].begun);
        assert_eq!(calls.take(), []);
        let start = || counted.start_all_reduce(&tensor, ReduceOp::Sum, Box::new(|| ())).unwrap();
        let under_way = [start(), start()];
        assert_eq!((at.entered(), calls.take()), (5, vec![]), "noted when they are over");
        assert!(!at.waits(), "nobody waits for them yet");
        let wires = under_way.map(|call| call.wait().unwrap());
        assert_eq!(calls.take(), wires.map(|w| Call { bytes: 20, begun: w.begun, ended: w.ended }));
        for _ in 0..Calls::MOST + 3 {
            counted.all_reduce(&tensor, ReduceOp::Max).unwrap();
        }
        assert_eq!(calls.take().len(), Calls::MOST);
    }
}
