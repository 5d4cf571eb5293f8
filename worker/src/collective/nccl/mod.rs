//! NCCL, non-blocking: every wait polls NCCL's state, the abort token and a deadline.
//!
//! Three layers: `sys` is the C interface, a table filled from a named file; `result` has checked answers; this module
//! has groups. Their work goes on a stream of its own, beside CUDA's legacy default stream, where libtorch computes: a call is
//! given to NCCL once the device has passed a mark that was set when the call was started, and is over when the device has done
//! it, which the host waits for before it gives libtorch anything that reads the result.
//!
//! A group is used by one thread, its queue's, and freed by that one, which is then in no call, so nothing is aborted while a
//! call is inside NCCL. It ends in one of two ways: [`Collective::finish`] finalizes it, which sends what slower peers still wait
//! for; a group that failed, or is dropped unfinished, is aborted. Either may hang with the device: a thread of its own frees, and
//! is left behind after [`FREE`].

mod cause;
mod library;
mod place;
mod result;
mod sys;

pub use library::{OVERRIDE as NCCL_VARIABLE, load as load_nccl};
pub use place::Place;
pub use result::Library as NcclLibrary;

use super::error::{Trouble, Which};
use super::queue::{Queue, Started};
use super::{
    Abort, Attached, Cause, Collective, CollectiveError, Entered, Pending, ReduceOp, RendezvousStore, bytes,
    room_for_all,
};
use place::Side;
use result::{Answer, Buffers, Handle, Refusal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
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
    _attached: Attached,
    queue: Arc<Queue>,
    group: Arc<Group>,
}

/// What the queue's thread works with.
struct Group {
    library: &'static NcclLibrary,
    /// None once it is freed.
    comm: Mutex<Option<Handle>>,
    side: Arc<dyn Side>,
    abort: Abort,
    rank: usize,
    world_size: usize,
    timeout: Duration,
    /// A call has failed: nothing more can be asked of the group.
    broken: AtomicBool,
    /// It is given up: what is under way is to end.
    given_up: AtomicBool,
    /// Tensors of a failed call, which may still be worked on until the group is freed.
    kept: Mutex<Vec<Tensor>>,
}

/// What is started once the others are all that a call waits for.
type Launch = Box<dyn FnOnce(&Group, Buffers, Handle) -> Result<Answer, Refusal> + Send>;

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
        let side = place::prepare(place, library, rank).map_err(failed)?;
        side.enter().map_err(failed)?;
        let id = identifier(library, store, rank, timeout, abort).map_err(failed)?;
        if abort.is_tripped() {
            return Err(CollectiveError::Aborted { call: "connect", rank });
        }
        let (comm, answer) = library.join(id, rank, world_size);
        // From here on it is freed when this returns early.
        let group = Arc::new(Group {
            library,
            comm: Mutex::new(comm),
            side,
            abort: abort.clone(),
            rank,
            world_size,
            timeout,
            broken: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            kept: Mutex::default(),
        });
        match group.settle(Which { call: "connect", number: 0, bytes: 0 }, answer) {
            Ok(()) => (),
            Err(CollectiveError::Failed { cause, why, .. }) => return Err(failed(Trouble { cause, why })),
            Err(e) => return Err(e),
        }
        // Three waits of a call have the deadline: for this rank's device, for NCCL to take it, for the others.
        let queue = Arc::new(Queue::new("nccl", rank, 3 * timeout + FREE).map_err(failed)?);
        // A call that failed leaves its kernel on the device, which whoever started the call may be waiting for elsewhere.
        let (ending, of) = (Arc::clone(&group), Arc::downgrade(&queue));
        let attached = abort.attach(move || {
            if let Some(Ok(freeing)) = of.upgrade().map(|queue| free_by(&queue, ending)) {
                freeing.unattended();
            }
        });
        Ok(Self { _attached: attached, queue, group })
    }

    /// Starts a call that reads `tensor` and writes `out`.
    fn start(
        &self,
        call: &'static str,
        (tensor, out): (&Tensor, &Tensor),
        entered: Entered,
        launch: Launch,
    ) -> Result<Started<()>, CollectiveError> {
        let group = Arc::clone(&self.group);
        let datatype = datatype_of(tensor.kind()).filter(|_| tensor.is_contiguous());
        let Some(datatype) = datatype.filter(|_| tensor.device() == group.side.device()) else {
            let (kind, strides) = (format!("{:?} on {:?}", tensor.kind(), tensor.device()), tensor.stride());
            return Err(CollectiveError::Tensor { call, kind, strides });
        };
        let which = self.queue.uncounted(call);
        let behind = group.comm(which).and_then(|_| {
            group.side.enter().map_err(|e| group.failed(which, e))?;
            group.side.mark().map_err(|e| group.failed(which, e))
        })?;
        let (tensor, out) = (tensor.shallow_clone(), out.shallow_clone());
        self.queue.start(call, bytes(&tensor), move |which, ready| {
            let buffers =
                Buffers { from: tensor.data_ptr(), to: out.data_ptr(), count: tensor.numel(), datatype };
            let run = || {
                let comm = group.comm(which)?;
                group.side.enter().map_err(|e| group.failed(which, e))?;
                group.wait(which, OWN_WORK, |_| group.side.passed(&behind))?;
                ready();
                entered();
                group.settle(which, launch(&group, buffers, comm))?;
                group.wait(which, OTHERS, |_| group.side.idle(comm))
            };
            run().inspect_err(|e| {
                group.kept().extend([tensor, out]);
                // At once: whoever started it may be in a backward that waits for the device.
                if matches!(e, CollectiveError::Aborted { .. }) {
                    group.free();
                }
            })
        })
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Option<Handle>> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Tensor>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call's error; the group is of no more use.
    fn failed(&self, which: Which, trouble: impl Into<Trouble>) -> CollectiveError {
        self.broken.store(true, Ordering::SeqCst);
        which.failed("nccl", self.rank, trouble)
    }

    fn aborted(&self, call: &'static str) -> CollectiveError {
        self.broken.store(true, Ordering::SeqCst);
        CollectiveError::Aborted { call, rank: self.rank }
    }

    /// The communicator, if it can still be used.
    fn comm(&self, which: Which) -> Result<Handle, CollectiveError> {
        if self.abort.is_tripped() || self.given_up.load(Ordering::SeqCst) {
            return Err(self.aborted(which.call));
        }
        // Also where it has been freed since.
        if self.broken.load(Ordering::SeqCst) {
            return Err(
                self.failed(which, Trouble::new(Cause::Peers, "an earlier call of this group failed"))
            );
        }
        let finished = || self.failed(which, Trouble::new(Cause::Own, "the group is finished"));
        self.lock().ok_or_else(finished)
    }

    /// Waits until `done` says so, watching the abort token and the deadline, beyond which `late` is what went wrong.
    fn patiently(
        &self,
        which: Which,
        (cause, late): (Cause, &str),
        mut done: impl FnMut() -> Result<bool, Trouble>,
    ) -> Result<(), CollectiveError> {
        let since = Instant::now();
        loop {
            if done().map_err(|e| self.failed(which, e))? {
                return Ok(());
            }
            let waited = since.elapsed();
            if self.abort.is_tripped() || self.given_up.load(Ordering::SeqCst) {
                return Err(self.aborted(which.call));
            }
            if waited > self.timeout {
                let why = format!("{late} within {:.0} s", self.timeout.as_secs_f64());
                return Err(self.failed(which, Trouble { cause, why }));
            }
            std::thread::sleep((waited / 10).clamp(PAUSES[0], PAUSES[1]));
        }
    }

    /// The same, watching NCCL's state, too: for the thread that uses it.
    fn wait(
        &self,
        which: Which,
        late: (Cause, &str),
        mut done: impl FnMut(Answer) -> Result<bool, Trouble>,
    ) -> Result<(), CollectiveError> {
        let comm = self.comm(which)?;
        self.patiently(which, late, || done(self.library.state(comm)?))
    }

    /// Waits until NCCL has taken a call.
    fn settle(&self, which: Which, answer: Result<Answer, Refusal>) -> Result<(), CollectiveError> {
        match answer.map_err(|e| self.failed(which, e))? {
            Answer::Done => Ok(()),
            Answer::InProgress => self.wait(which, OTHERS, |state| Ok(state == Answer::Done)),
        }
    }

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

    /// The orderly end.
    fn finish(&self, which: Which) -> Result<(), CollectiveError> {
        if self.lock().is_none() && !self.broken.load(Ordering::SeqCst) {
            return Ok(());
        }
        let comm = self.comm(which)?;
        self.side.enter().map_err(|e| self.failed(which, e))?;
        self.settle(which, self.library.finalize(comm))?;
        *self.lock() = None;
        let destroy = Which { call: "destroy", ..which };
        let late = || {
            let why = format!("NCCL did not come back within {} s", FREE.as_secs());
            self.failed(destroy, Trouble::new(Cause::Own, why))
        };
        let freed = self.release(move |library| library.destroy(comm)).ok_or_else(late)?;
        freed.map_err(|e| self.failed(destroy, e))
    }

    /// The end after a failure, where no call is inside NCCL.
    fn free(&self) {
        let Some(comm) = self.lock().take() else { return };
        self.broken.store(true, Ordering::SeqCst);
        if self.release(move |library| library.abort(comm)).is_none() {
            tracing::warn!(
                "rank {}: NCCL does not come back from ncclCommAbort within {} s: the GPU or its driver hangs",
                self.rank,
                FREE.as_secs()
            );
            // It may still work on them.
            std::mem::forget(std::mem::take(&mut *self.kept()));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.free();
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Nobody is to be told.
fn silent() -> Entered {
    Box::new(|| ())
}

/// Has the thread that uses a group free it, once it is in no call.
fn free_by(queue: &Queue, group: Arc<Group>) -> Result<Started<()>, CollectiveError> {
    queue.start_uncounted("abandon", move |_| {
        group.free();
        Ok(())
    })
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.group.rank
    }

    fn world_size(&self) -> usize {
        self.group.world_size
    }

    fn ready(&self, call: &'static str) -> Result<(), CollectiveError> {
        let (group, which) = (&self.group, self.queue.uncounted(call));
        group.comm(which)?;
        group.side.enter().map_err(|e| group.failed(which, e))?;
        group.patiently(which, OWN_WORK, || group.side.quiet())
    }

    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<(), CollectiveError> {
        self.start_all_reduce(tensor, op, silent())?.wait().map(drop)
    }

    fn start_all_reduce(
        &self,
        tensor: &Tensor,
        op: ReduceOp,
        entered: Entered,
    ) -> Result<Box<dyn Pending>, CollectiveError> {
        let op = match op {
            ReduceOp::Sum => operation::SUM,
            ReduceOp::Max => operation::MAX,
        };
        let launch = Box::new(move |group: &Group, buffers, comm| {
            // SAFETY: the tensor's memory, where the rank computes; the call keeps it until the work is done, or the group
            // until it is freed.
            unsafe { group.library.all_reduce(buffers, op, comm, group.side.stream()) }
        });
        Ok(Box::new(self.start("all_reduce", (tensor, tensor), entered, launch)?))
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        let launch = Box::new(move |group: &Group, buffers, comm| {
            // SAFETY: as above.
            unsafe { group.library.broadcast(buffers, root, comm, group.side.stream()) }
        });
        self.start("broadcast", (tensor, tensor), silent(), launch)?.result().map(drop)
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        let which = self.queue.uncounted("all_gather");
        let failed = |e: tch::TchError| self.group.failed(which, e);
        let out = room_for_all(tensor, self.group.world_size).map_err(failed)?;
        let launch = Box::new(|group: &Group, buffers, comm| {
            // SAFETY: as above; `out` holds as many tensors as there are ranks.
            unsafe { group.library.all_gather(buffers, comm, group.side.stream()) }
        });
        self.start(which.call, (tensor, &out), silent(), launch)?.result()?;
        out.f_unbind(0).map_err(failed)
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        let failed = |e: tch::TchError| self.group.failed(self.queue.uncounted("barrier"), e);
        let one = Tensor::f_zeros([1], (Kind::Float, self.group.side.device())).map_err(failed)?;
        self.all_reduce(&one, ReduceOp::Sum)
    }

    fn finish(&self) -> Result<(), CollectiveError> {
        self.queue.usable("finalize")?;
        let group = Arc::clone(&self.group);
        self.queue.start_uncounted("finalize", move |which| group.finish(which))?.result().map(drop)
    }

    /// A kernel that waits for a rank which is gone holds up the device that everything else is computed on.
    fn abandon(&self) {
        self.group.given_up.store(true, Ordering::SeqCst);
        let freeing = free_by(&self.queue, Arc::clone(&self.group));
        if let Err(e) = freeing.and_then(|freeing| freeing.within(2 * FREE).result()) {
            tracing::warn!("{e}");
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
