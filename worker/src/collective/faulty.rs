//! A collective that fails when told to: what the rest does about it can be tested.

use super::error::{Trouble, Which};
use super::pending::Done;
use super::{Cause, Collective, CollectiveError, Entered, OnTheWire, Pending, ReduceOp, bytes};
use std::sync::atomic::{AtomicU64, Ordering};
use tch::Tensor;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails as if another rank had gone, and so do all that follow.
    Fail,
    /// The tensor of the call arrives with its first element negated and moved: ranks differ from then on.
    Corrupt,
}

/// Wraps a collective; its call number `at` (from 0, reductions, broadcasts, gathers and barriers alike) suffers
/// the fault.
pub struct Faulty {
    inner: Box<dyn Collective>,
    at: u64,
    fault: Fault,
    calls: AtomicU64,
}

impl Faulty {
    /// A faulty collective over a sound one.
    pub fn new(inner: Box<dyn Collective>, at: u64, fault: Fault) -> Self {
        Self { inner, at, fault, calls: AtomicU64::new(0) }
    }

    fn due(&self, call: &'static str, tensor: Option<&Tensor>) -> Result<bool, CollectiveError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let now = number == self.at;
        let failed = |why: &str| {
            let which = Which { call, number: number as u32 + 1, bytes: tensor.map_or(0, bytes) };
            Err(which.failed("faulty", self.inner.rank(), Trouble::new(Cause::Peers, why)))
        };
        match self.fault {
            Fault::Fail if now => failed("a declared fault"),
            // As of any group: the other ranks would take the next call for this one.
            Fault::Fail if number > self.at => failed("an earlier call of this group failed"),
            fault => Ok(now && fault == Fault::Corrupt),
        }
    }
}

/// A call that was started, whose tensor arrives spoilt.
struct Spoilt(Box<dyn Pending>, Tensor);

impl Pending for Spoilt {
    fn wait(self: Box<Self>) -> Result<OnTheWire, CollectiveError> {
        let wire = self.0.wait()?;
        corrupt(&self.1);
        Ok(wire)
    }
}

fn corrupt(tensor: &Tensor) {
    let mut first = tensor.view([-1]).narrow(0, 0, 1);
    let moved = -&first - 1;
    first.copy_(&moved);
}

impl Collective for Faulty {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn world_size(&self) -> usize {
        self.inner.world_size()
    }
    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<(), CollectiveError> {
        let bad = self.due("all_reduce", Some(tensor))?;
        self.inner.all_reduce(tensor, op)?;
        if bad {
            corrupt(tensor);
        }
        Ok(())
    }
    /// What fails does so when it is waited for, as a call does whose other rank has gone.
    fn start_all_reduce(
        &self,
        tensor: &Tensor,
        op: ReduceOp,
        entered: Entered,
    ) -> Result<Box<dyn Pending>, CollectiveError> {
        match self.due("all_reduce", Some(tensor)) {
            Err(e) => Ok(Box::new(Done(Err(e)))),
            Ok(bad) => {
                let inner = self.inner.start_all_reduce(tensor, op, entered)?;
                Ok(if bad { Box::new(Spoilt(inner, tensor.shallow_clone())) } else { inner })
            }
        }
    }
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        let bad = self.due("broadcast", Some(tensor))?;
        self.inner.broadcast(tensor, root)?;
        if bad {
            corrupt(tensor);
        }
        Ok(())
    }
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        let bad = self.due("all_gather", Some(tensor))?;
        let all = self.inner.all_gather(tensor)?;
        if bad {
            corrupt(&all[0]);
        }
        Ok(all)
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.due("barrier", None)?;
        self.inner.barrier()
    }
    fn finish(&self) -> Result<(), CollectiveError> {
        self.inner.finish()
    }
    fn abandon(&self) {
        self.inner.abandon();
    }
}
