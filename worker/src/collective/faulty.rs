//! A collective that fails when told to: what the rest does about it can be tested.

use super::{Cause, Collective, CollectiveError, ReduceOp};
use std::sync::atomic::{AtomicU64, Ordering};
use tch::Tensor;

/// What goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails as if another rank had gone.
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

    fn due(&self, call: &'static str) -> Result<bool, CollectiveError> {
        let now = self.calls.fetch_add(1, Ordering::SeqCst) == self.at;
        match self.fault {
            Fault::Fail if now => {
                let (rank, why) = (self.inner.rank(), "a declared fault".to_string());
                Err(CollectiveError::Failed { backend: "faulty", call, rank, cause: Cause::Peers, why })
            }
            fault => Ok(now && fault == Fault::Corrupt),
        }
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
        let bad = self.due("all_reduce")?;
        self.inner.all_reduce(tensor, op)?;
        if bad {
            corrupt(tensor);
        }
        Ok(())
    }
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        let bad = self.due("broadcast")?;
        self.inner.broadcast(tensor, root)?;
        if bad {
            corrupt(tensor);
        }
        Ok(())
    }
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        let bad = self.due("all_gather")?;
        let all = self.inner.all_gather(tensor)?;
        if bad {
            corrupt(&all[0]);
        }
        Ok(all)
    }
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.due("barrier")?;
        self.inner.barrier()
    }
    fn finish(&mut self) -> Result<(), CollectiveError> {
        self.inner.finish()
    }
    fn abandon(&mut self) {
        self.inner.abandon();
    }
}
