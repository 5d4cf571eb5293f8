//! NCCL, non-blocking: every wait polls NCCL's state, the abort token and a deadline.
//!
//! Three layers: `sys` is the C interface, a table filled from a named file; `result` has checked answers; this module
//! has groups. Work goes on CUDA's legacy default stream, where libtorch computes, so it is ordered after the kernels
//! that make its input. A call returns when the device has done it.
//!
//! A group is used by one thread, and freed when that one is in no call, so nothing is aborted while a call is inside
//! NCCL. It ends in one of two ways: [`Collective::finish`] finalizes it, which sends what slower peers still wait for; a
//! group that failed, or is dropped unfinished, is aborted. Either may hang with the device: a thread of its own frees, and
//! is left behind after [`FREE`].

mod cause;
mod library;
mod place;
mod result;
mod sys;

pub use library::{OVERRIDE as NCCL_VARIABLE, load as load_nccl};
pub use place::Place;
pub use result::Library as NcclLibrary;

use super::error::Trouble;
use super::{Abort, Cause, Collective, CollectiveError, ReduceOp, RendezvousStore, room_for_all};
use place::Side;
use result::{Answer, Buffers, Handle, Refusal};
use std::cell::{Cell, RefCell};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use sys::{UNIQUE_ID_BYTES, UniqueId, datatype, operation};
use tch::{Kind, Tensor};

/// Key under which rank 0 puts NCCL's identifier of the group.
const KEY: &str = "nccl/unique-id";

/// Shortest and longest pause between two looks at NCCL's state; in between, a tenth of what was waited already.
const PAUSES: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(2)];

/// What was waited for in vain when a call has been begun, and whose failure that is.
const OTHERS: (Cause, &str) = (Cause::Waited, "no answer from the other ranks");
/// The same, before it has been begun.
const OWN_WORK: (Cause, &str) =
    (Cause::Own, "a kernel hangs: what this rank's GPU had to do before the call is not done");

/// Longest wait for NCCL to free a group.
const FREE: Duration = Duration::from_secs(5);

/// A NCCL group of one GPU per rank.
pub struct Nccl {
    library: &'static NcclLibrary,
    /// None once it is freed.
    comm: Option<Handle>,
    side: Arc<dyn Side>,
    abort: Abort,
    rank: usize,
    world_size: usize,
    timeout: Duration,
    /// A call has failed: nothing more can be asked of the group.
    broken: Cell<bool>,
    /// Tensors of a failed call, which may still be worked on until the group is freed.
    kept: RefCell<Vec<Tensor>>,
}

/// Environment variable that overrides what is asked of NCCL: calls that return at once.
const BLOCKING: &str = "NCCL_COMM_BLOCKING";

/// Refuses an environment in which NCCL's calls block: neither deadline nor abort would end them.
fn not_blocking(said: Option<&str>) -> Result<(), Trouble> {
    match said {
        None | Some("" | "0") => Ok(()),
        Some(value) => Err(Trouble::new(
            Cause::Setup,
            format!(
                "{BLOCKING}={value} makes NCCL's calls block, so that nothing could abort them: unset it"
            ),
        )),
    }
}

/// NCCL's name of an element type.
fn datatype_of(kind: Kind) -> Option<std::ffi::c_int> {
    Some(match kind {
        Kind::Float => datatype::FLOAT32,
        Kind::Double => datatype::FLOAT64,
        Kind::Half => datatype::FLOAT16,
        Kind::BFloat16 => datatype::BFLOAT16,
        Kind::Int64 => datatype::INT64,
        Kind::Uint8 => datatype::UINT8,
        _ => return None,
    })
}

/// The group's identifier: rank 0 makes it, the others find it in the store.
fn identifier(
    library: &NcclLibrary,
    store: &dyn RendezvousStore,
    rank: usize,
    timeout: Duration,
    abort: &Abort,
) -> Result<UniqueId, Trouble> {
    if rank == 0 {
        let id = library.unique_id()?;
        store.set(KEY, &id.0)?;
        return Ok(id);
    }
    let bytes = store.get(KEY, timeout, abort)?;
    let other = |_| Trouble::new(Cause::Setup, "rank 0 has published an identifier of another kind");
    let bytes: [u8; UNIQUE_ID_BYTES] = bytes.try_into().map_err(other)?;
    Ok(UniqueId(bytes))
}

impl Nccl {
    /// Connects all ranks, each with a place of its own. They meet in `store`; `timeout` bounds every call, and all of
    /// them, this one too, end once `abort` trips.
    pub fn connect(
        library: &'static NcclLibrary,
        store: &dyn RendezvousStore,
        (rank, world_size): (usize, usize),
        place: Place,
        timeout: Duration,
        abort: &Abort,
    ) -> Result<Self, CollectiveError> {
        let failed = |Trouble { cause, why }: Trouble| match abort.is_tripped() {
            true => CollectiveError::Aborted { call: "connect", rank },
            false => CollectiveError::Connect {
                backend: "nccl",
                cause,
                why: format!("rank {rank} of {world_size} on {place}: {why}"),
            },
        };
        not_blocking(std::env::var(BLOCKING).ok().as_deref()).map_err(failed)?;
        let side = place::prepare(place, library).map_err(failed)?;
        side.enter().map_err(failed)?;
        let id = identifier(library, store, rank, timeout, abort).map_err(failed)?;
        if abort.is_tripped() {
            return Err(CollectiveError::Aborted { call: "connect", rank });
        }
        let (comm, answer) = library.join(id, rank, world_size);
        let (broken, abort) = (Cell::new(false), abort.clone());
        // From here on it is freed when this returns early.
        let kept = RefCell::default();
        let group = Self { library, comm, side, abort, rank, world_size, timeout, broken, kept };
        match group.settle("connect", answer) {
            Ok(()) => Ok(group),
            Err(CollectiveError::Failed { cause, why, .. }) => Err(failed(Trouble { cause, why })),
            Err(e) => Err(e),
        }
    }

    /// The call's error; the group is of no more use.
    fn failed(&self, call: &'static str, trouble: impl Into<Trouble>) -> CollectiveError {
        self.broken.set(true);
        let Trouble { cause, why } = trouble.into();
        CollectiveError::Failed { backend: "nccl", call, rank: self.rank, cause, why }
    }

    fn aborted(&self, call: &'static str) -> CollectiveError {
        self.broken.set(true);
        CollectiveError::Aborted { call, rank: self.rank }
    }

    /// The communicator, if it can still be used.
    fn comm(&self, call: &'static str) -> Result<Handle, CollectiveError> {
        if self.abort.is_tripped() {
            return Err(self.aborted(call));
        }
        match self.comm {
            Some(comm) if !self.broken.get() => Ok(comm),
            Some(_) => {
                Err(self.failed(call, Trouble::new(Cause::Peers, "an earlier call of this group failed")))
            }
            None => Err(self.failed(call, Trouble::new(Cause::Own, "the group is finished"))),
        }
    }

    /// Waits until `done` says so, watching NCCL's state, the abort token and the deadline, beyond which `late` is what
    /// went wrong.
    fn wait(
        &self,
        call: &'static str,
        (cause, late): (Cause, &str),
        mut done: impl FnMut(Answer) -> Result<bool, Trouble>,
    ) -> Result<(), CollectiveError> {
        let comm = self.comm(call)?;
        let since = Instant::now();
        loop {
            let state = self.library.state(comm).map_err(|e| self.failed(call, e))?;
            if done(state).map_err(|e| self.failed(call, e))? {
                return Ok(());
            }
            let waited = since.elapsed();
            if self.abort.is_tripped() {
                return Err(self.aborted(call));
            }
            if waited > self.timeout {
                let why = format!("{late} within {:.0} s", self.timeout.as_secs_f64());
                return Err(self.failed(call, Trouble { cause, why }));
            }
            std::thread::sleep((waited / 10).clamp(PAUSES[0], PAUSES[1]));
        }
    }

    /// Waits until NCCL has taken a call.
    fn settle(&self, call: &'static str, answer: Result<Answer, Refusal>) -> Result<(), CollectiveError> {
        match answer.map_err(|e| self.failed(call, e))? {
            Answer::Done => Ok(()),
            Answer::InProgress => self.wait(call, OTHERS, |state| Ok(state == Answer::Done)),
        }
    }

    /// Starts a call that reads `tensor` and writes `out`, and waits until it is done.
    fn run(
        &self,
        call: &'static str,
        tensor: &Tensor,
        out: &Tensor,
        start: impl FnOnce(Buffers, Handle) -> Result<Answer, Refusal>,
    ) -> Result<(), CollectiveError> {
        let datatype = datatype_of(tensor.kind()).filter(|_| tensor.is_contiguous());
        let Some(datatype) = datatype.filter(|_| tensor.device() == self.side.device()) else {
            let (kind, strides) = (format!("{:?} on {:?}", tensor.kind(), tensor.device()), tensor.stride());
            return Err(CollectiveError::Tensor { call, kind, strides });
        };
        let comm = self.comm(call)?;
        self.side.enter().map_err(|e| self.failed(call, e))?;
        let buffers =
            Buffers { from: tensor.data_ptr(), to: out.data_ptr(), count: tensor.numel(), datatype };
        let done = self.settle(call, start(buffers, comm));
        let done = done.and_then(|()| self.wait(call, OTHERS, |_| self.side.idle(self.library, comm)));
        if done.is_err() {
            self.kept.borrow_mut().extend([tensor.shallow_clone(), out.shallow_clone()]);
        }
        done
    }
}

impl Nccl {
    /// Has `free` run on a thread of its own, on this group's device; none if it does not come back in time.
    fn release<T: Send + 'static>(
        &self,
        free: impl FnOnce(&'static NcclLibrary) -> T + Send + 'static,
    ) -> Option<T> {
        let (done, freed) = mpsc::channel();
        let (library, side) = (self.library, Arc::clone(&self.side));
        let run = move || {
            // A device that cannot be entered any more does not keep NCCL from freeing what it has on the host.
            let _ = side.enter();
            let _ = done.send(free(library));
        };
        let started = std::thread::Builder::new().name("nccl-free".into()).spawn(run);
        started.ok().and_then(|_| freed.recv_timeout(FREE).ok())
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn ready(&self, call: &'static str) -> Result<(), CollectiveError> {
        let comm = self.comm(call)?;
        self.side.enter().map_err(|e| self.failed(call, e))?;
        self.wait(call, OWN_WORK, |_| self.side.idle(self.library, comm))
    }

    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<(), CollectiveError> {
        let op = match op {
            ReduceOp::Sum => operation::SUM,
            ReduceOp::Max => operation::MAX,
        };
        let stream = self.side.stream();
        self.run("all_reduce", tensor, tensor, |buffers, comm| {
            // SAFETY: the tensor's memory, where the rank computes; `run` waits for the end of the work, or keeps the
            // memory until the group is freed.
            unsafe { self.library.all_reduce(buffers, op, comm, stream) }
        })
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        let stream = self.side.stream();
        self.run("broadcast", tensor, tensor, |buffers, comm| {
            // SAFETY: as above.
            unsafe { self.library.broadcast(buffers, root, comm, stream) }
        })
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        let call = "all_gather";
        let out = room_for_all(tensor, self.world_size).map_err(|e| self.failed(call, e))?;
        let stream = self.side.stream();
        self.run(call, tensor, &out, |buffers, comm| {
            // SAFETY: as above; `out` holds as many tensors as there are ranks.
            unsafe { self.library.all_gather(buffers, comm, stream) }
        })?;
        out.f_unbind(0).map_err(|e| self.failed(call, e))
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        let one = Tensor::f_zeros([1], (Kind::Float, self.side.device()));
        self.all_reduce(&one.map_err(|e| self.failed("barrier", e))?, ReduceOp::Sum)
    }

    fn finish(&mut self) -> Result<(), CollectiveError> {
        let call = "finalize";
        let Some(comm) = self.comm else { return Ok(()) };
        self.comm(call)?;
        self.side.enter().map_err(|e| self.failed(call, e))?;
        self.settle(call, self.library.finalize(comm))?;
        self.comm = None;
        let late = || {
            let why = format!("NCCL did not come back within {} s", FREE.as_secs());
            self.failed("destroy", Trouble::new(Cause::Own, why))
        };
        let freed = self.release(move |library| library.destroy(comm)).ok_or_else(late)?;
        freed.map_err(|e| self.failed("destroy", e))
    }

    /// A kernel that waits for a rank which is gone holds up the stream that everything else is computed on.
    fn abandon(&mut self) {
        // This thread is the only user, and is in no call.
        let Some(comm) = self.comm.take() else { return };
        if self.release(move |library| library.abort(comm)).is_none() {
            tracing::warn!(
                "rank {}: NCCL does not come back from ncclCommAbort within {} s: the GPU or its driver hangs",
                self.rank,
                FREE.as_secs()
            );
            // It may still work on them.
            std::mem::forget(self.kept.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_in_which_nccl_blocks_is_refused() {
        for fine in [None, Some(""), Some("0")] {
            assert_eq!(not_blocking(fine), Ok(()));
        }
        let e = not_blocking(Some("1")).unwrap_err();
        assert!(e.cause == Cause::Setup && e.why.contains("NCCL_COMM_BLOCKING=1"), "{}", e.why);
    }
}
