//! Collectives over ranks behind one trait: Gloo, NCCL, local, faulty, counted.

mod abort;
mod calls;
mod counted;
mod error;
mod faulty;
mod folder;
mod gloo;
mod local;
mod memory;
mod nccl;
mod pending;
mod proof;
mod queue;
mod rendezvous;
#[cfg(test)]
pub(crate) mod tests;
mod whereabouts;

pub use abort::{Abort, Attached};
pub use calls::{Call, Calls};
pub use counted::Counted;
pub use error::{Cause, CollectiveError};
pub use faulty::{Fault, Faulty};
pub use folder::FolderStore;
pub use gloo::Gloo;
pub use local::Local;
pub use memory::MemoryStore;
pub use nccl::{NCCL_VARIABLE, Nccl, NcclLibrary, Place, load_nccl};
pub use pending::{Entered, OnTheWire, Pending};
pub use rendezvous::{RendezvousStore, StoreError};
pub use whereabouts::{Operation, Waiting, Whereabouts};

use std::time::Instant;
use tch::Tensor;

/// Bytes of a tensor's elements.
fn bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// Room for what every one of `ranks` ranks has like `tensor`.
fn room_for_all(tensor: &Tensor, ranks: usize) -> Result<Tensor, tch::TchError> {
    let mut shape = tensor.size();
    shape.insert(0, ranks as i64);
    Tensor::f_zeros(shape.as_slice(), (tensor.kind(), tensor.device()))
}

/// How values of ranks are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Sum.
    Sum,
    /// Maximum.
    Max,
}

/// Communication among the ranks of a job. Every rank calls the same functions in the same order with tensors of
/// one shape and type; a thread may call them where another has called before, and no two at once. Tensors are contiguous.
/// Every call has a deadline, and ends promptly with [`CollectiveError::Aborted`], as all later ones do, once the [`Abort`] trips
/// that the group was connected with.
pub trait Collective: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// Number of ranks.
    fn world_size(&self) -> usize;
    /// Returns once this rank's device has done what it was given before `call`, so that what the call then waits for
    /// are the other ranks; an error of it is this rank's own.
    fn ready(&self, _call: &'static str) -> Result<(), CollectiveError> {
        Ok(())
    }
    /// Replaces `tensor` by the combination over all ranks, the same bits on each.
    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<(), CollectiveError>;
    /// Starts an [`Self::all_reduce`] and returns, where the group can do it meanwhile; where it cannot, it is done here. Nobody
    /// reads or writes the tensor until it was waited for. Other calls may follow before that, on all ranks the same. What is
    /// [`Self::ready`] for other calls is said by `entered`.
    fn start_all_reduce(
        &self,
        tensor: &Tensor,
        op: ReduceOp,
        entered: Entered,
    ) -> Result<Box<dyn Pending>, CollectiveError> {
        self.ready("all_reduce")?;
        entered();
        let begun = Instant::now();
        self.all_reduce(tensor, op)?;
        Ok(Box::new(pending::Done(Ok(OnTheWire { begun, ended: Instant::now() }))))
    }
    /// Replaces `tensor` by that of rank `root`.
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError>;
    /// The tensors of all ranks, in their order.
    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError>;
    /// Returns once all ranks have called it.
    fn barrier(&self) -> Result<(), CollectiveError>;
    /// The orderly end: returns once what slower ranks still need of this one has left it, after which every call
    /// fails. A group that is dropped without it may cut off what others are receiving.
    fn finish(&self) -> Result<(), CollectiveError> {
        Ok(())
    }
    /// The end after a failure, without waiting for anybody: what still runs on this rank's device is stopped, so that
    /// its memory can be read. Every call fails afterwards.
    fn abandon(&self) {}
}
