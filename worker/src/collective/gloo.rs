//! Gloo over TCP: libtorch's process group, which meets through our rendezvous store.

use super::error::{Trouble, Which};
use super::proof::Key;
use super::queue::{Queue, Started};
use super::{
    Abort, Attached, Cause, Collective, CollectiveError, Entered, Pending, ReduceOp, RendezvousStore,
    StoreError, bytes, room_for_all,
};
use crate::native::{self, NativeError, says_no_memory};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tch::{Kind, Tensor};

/// How much later than its timeout Gloo may come back from connecting, and from a call.
const LATE: Duration = Duration::from_secs(5);

#[repr(C)]
struct RawStore {
    context: *mut c_void,
    set: extern "C" fn(*mut c_void, *const u8, usize, *const u8, usize, *mut c_void) -> c_int,
    get: extern "C" fn(*mut c_void, *const u8, usize, i64, *mut c_void, *mut c_void) -> c_int,
    add: extern "C" fn(*mut c_void, *const u8, usize, i64, *mut i64, *mut c_void) -> c_int,
    check: extern "C" fn(*mut c_void, *const u8, usize, *mut bool, *mut c_void) -> c_int,
    remove: extern "C" fn(*mut c_void, *const u8, usize, *mut bool, *mut c_void) -> c_int,
}

#[repr(C)]
struct RawGroup {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn octrain_string_assign(string: *mut c_void, bytes: *const u8, len: usize);
    fn octrain_gloo_new(
        out: *mut *mut RawGroup,
        store: RawStore,
        rank: c_int,
        size: c_int,
        address: *const c_char,
        timeout_ms: i64,
    ) -> *mut c_char;
    fn octrain_gloo_abort(group: *mut RawGroup) -> *mut c_char;
    fn octrain_gloo_free(group: *mut RawGroup);
    fn octrain_gloo_all_reduce(group: *mut RawGroup, tensor: *const c_void, op: c_int) -> *mut c_char;
    fn octrain_gloo_broadcast(group: *mut RawGroup, tensor: *const c_void, root: c_int) -> *mut c_char;
    fn octrain_gloo_all_gather(
        group: *mut RawGroup,
        tensor: *const c_void,
        out: *const c_void,
    ) -> *mut c_char;
}

/// What the C++ store calls back with.
struct Context {
    store: Arc<dyn RendezvousStore>,
    abort: Abort,
}

/// Runs a callback: the store and the key in, 0 out, or 1 with the message in `error`.
fn answer<T>(
    context: *mut c_void,
    (key, len): (*const u8, usize),
    error: *mut c_void,
    call: impl FnOnce(&Context, &str) -> Result<T, StoreError>,
    done: impl FnOnce(T),
) -> c_int {
    // SAFETY: the context given to `octrain_gloo_new`, alive as long as the group.
    let context = unsafe { &*context.cast::<Context>() };
    // SAFETY: the C++ side gives a string's bytes, valid during the call.
    let key = String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(key, len) }).into_owned();
    match call(context, &key) {
        Ok(value) => {
            done(value);
            0
        }
        Err(e) => {
            let text = e.to_string();
            // SAFETY: `error` is the C++ side's string for it.
            unsafe { octrain_string_assign(error, text.as_ptr(), text.len()) };
            1
        }
    }
}

extern "C" fn store_set(
    c: *mut c_void,
    k: *const u8,
    kl: usize,
    v: *const u8,
    vl: usize,
    e: *mut c_void,
) -> c_int {
    let value = match vl {
        0 => &[],
        // SAFETY: `vl` bytes, valid during the call.
        _ => unsafe { std::slice::from_raw_parts(v, vl) },
    };
    answer(c, (k, kl), e, |c, key| c.store.set(key, value), |()| ())
}

extern "C" fn store_get(
    c: *mut c_void,
    k: *const u8,
    kl: usize,
    ms: i64,
    out: *mut c_void,
    e: *mut c_void,
) -> c_int {
    let timeout = Duration::from_millis(ms.max(0) as u64);
    answer(
        c,
        (k, kl),
        e,
        |c, key| c.store.get(key, timeout, &c.abort),
        |value| {
            // SAFETY: `out` is the C++ side's string for the value.
            unsafe { octrain_string_assign(out, value.as_ptr(), value.len()) };
        },
    )
}

extern "C" fn store_add(
    c: *mut c_void,
    k: *const u8,
    kl: usize,
    n: i64,
    sum: *mut i64,
    e: *mut c_void,
) -> c_int {
    // SAFETY: `sum` is the C++ side's variable for it.
    answer(c, (k, kl), e, |c, key| c.store.add(key, n), |value| unsafe { *sum = value })
}

extern "C" fn store_check(
    c: *mut c_void,
    k: *const u8,
    kl: usize,
    there: *mut bool,
    e: *mut c_void,
) -> c_int {
    // SAFETY: `there` is the C++ side's variable for it.
    answer(c, (k, kl), e, |c, key| c.store.check(&[key.to_string()]), |value| unsafe { *there = value })
}

extern "C" fn store_remove(c: *mut c_void, k: *const u8, kl: usize, was: *mut bool, e: *mut c_void) -> c_int {
    // SAFETY: `was` is the C++ side's variable for it.
    answer(c, (k, kl), e, |c, key| c.store.delete(key), |value| unsafe { *was = value })
}

/// The C++ group and what it refers to.
struct Group {
    raw: *mut RawGroup,
    /// A call has failed: its connections are of no more use.
    broken: AtomicBool,
    context: *mut Context,
}

// SAFETY: the process group and the abort flag may be used from any thread.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

impl Group {
    /// Connects, blocked in Gloo until all ranks have come or `timeout` is over.
    fn connect(
        context: Context,
        (rank, world_size): (usize, usize),
        host: &CStr,
        timeout: Duration,
    ) -> Result<Self, NativeError> {
        let context = Box::into_raw(Box::new(context));
        let raw_store = RawStore {
            context: context.cast(),
            set: store_set,
            get: store_get,
            add: store_add,
            check: store_check,
            remove: store_remove,
        };
        let mut raw = std::ptr::null_mut();
        let milliseconds = timeout.as_millis() as i64;
        // SAFETY: the callbacks and their context outlive the group (see `Group`); the address is copied.
        let made = unsafe {
            native::check(octrain_gloo_new(
                &mut raw,
                raw_store,
                rank as c_int,
                world_size as c_int,
                host.as_ptr(),
                milliseconds,
            ))
        };
        match made {
            Ok(()) => Ok(Self { raw, broken: AtomicBool::new(false), context }),
            Err(e) => {
                // SAFETY: made above; no group refers to it.
                drop(unsafe { Box::from_raw(context) });
                Err(e)
            }
        }
    }

    fn abort(&self) {
        // SAFETY: `raw` lives as long as `self`; the function answers null or a message from malloc.
        if let Err(e) = unsafe { native::check(octrain_gloo_abort(self.raw)) } {
            tracing::warn!("a connection of the group cannot be closed: {e}");
        }
    }
}

impl Group {
    /// Bytes of all ranks, in their order.
    fn gathered(&self, mine: &[u8], world_size: usize) -> Result<Vec<Tensor>, Trouble> {
        let mine = Tensor::f_from_slice(mine)?;
        let out = room_for_all(&mine, world_size)?;
        // SAFETY: group and tensors are alive during the call; the function answers null or a message from malloc.
        let done = unsafe {
            native::check(octrain_gloo_all_gather(self.raw, mine.as_ptr().cast(), out.as_ptr().cast()))
        };
        done.map_err(|e| of_words(e.0))?;
        Ok(out.f_unbind(0)?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: both were made by `Gloo::connect` and are freed once; the group, which calls back, goes first.
        unsafe {
            octrain_gloo_free(self.raw);
            drop(Box::from_raw(self.context));
        }
    }
}

/// Whose failure it is, by Gloo's words, which is all it gives.
fn of_words(why: String) -> Trouble {
    let late = [
        "Timed out waiting",
        "did not appear within",
        // A pair's, which this side's own deadline has closed.
        "Application timeout caused pair closure",
        // `Group::finish`'s in gloo.cpp, where that deadline comes before Gloo's.
        "no answer from the other ranks within",
    ];
    let cause = if says_no_memory(&why) {
        Cause::Memory
    } else if late.iter().any(|words| why.contains(words)) {
        Cause::Waited
    } else {
        Cause::Peers
    };
    Trouble { cause, why }
}

/// A Gloo group. Its calls are made by a thread of its own, each when the one before is done.
pub struct Gloo {
    queue: Queue,
    group: Arc<Group>,
    _attached: Attached,
    abort: Abort,
    rank: usize,
    world_size: usize,
}

impl Gloo {
    /// Connects all ranks, which meet in `store`. `address` is a host name or IP address of this machine that the
    /// others can reach; `timeout` bounds every call, and all of them, this one too, end once `abort` trips.
    pub fn connect(
        store: Arc<dyn RendezvousStore>,
        rank: usize,
        world_size: usize,
        address: &str,
        timeout: Duration,
        abort: &Abort,
    ) -> Result<Self, CollectiveError> {
        let failed = |trouble: Trouble| match abort.is_tripped() {
            true => CollectiveError::Aborted { call: "connect", rank },
            false => CollectiveError::Connect { backend: "gloo", cause: trouble.cause, why: trouble.why },
        };
        let host = CString::new(address)
            .map_err(|_| failed(Trouble::new(Cause::Setup, format!("{address:?} is not an address"))))?;
        let (tell, told) = mpsc::channel();
        let over = tell.clone();
        let ending = abort.attach(move || drop(over.send(None)));
        Key::draw(&*store, rank).map_err(failed)?;
        let context = Context { store: Arc::clone(&store), abort: abort.clone() };
        // Gloo's wait for a rank that does not connect cannot be ended from outside: there is no connection yet that
        // could be closed. So it has a thread that may be left behind when the job ends, as the process soon does.
        let connect = move || {
            let made = Group::connect(context, (rank, world_size), &host, timeout);
            // Nobody listens any more: the group is dropped here.
            drop(tell.send(Some(made)));
        };
        let started = std::thread::Builder::new().name("gloo-connect".into()).spawn(connect);
        started.map_err(|e| failed(Trouble::own(format!("no thread for it: {e}"))))?;
        let made = match told.recv_timeout(timeout + LATE) {
            Ok(Some(made)) => made,
            Ok(None) => return Err(CollectiveError::Aborted { call: "connect", rank }),
            Err(_) => {
                let why = format!("Gloo did not come back within {} s", timeout.as_secs());
                return Err(failed(Trouble::new(Cause::Waited, why)));
            }
        };
        drop(ending);
        let group = Arc::new(made.map_err(|e| failed(of_words(format!("at {address}: {e}"))))?);
        let ending = Arc::clone(&group);
        let attached = abort.attach(move || ending.abort());
        // Gloo takes whoever connects and says the right small number for a rank. This is none of the group's calls.
        let key = Key::read(&*store, timeout, abort).map_err(failed)?;
        let all = group.gathered(&key.shown(rank), world_size).map_err(failed)?;
        key.check(&all).map_err(failed)?;
        let queue = Queue::new("gloo", rank, timeout + LATE).map_err(failed)?;
        Ok(Self { queue, group, _attached: attached, abort: abort.clone(), rank, world_size })
    }

    /// Starts a call with `tensor`; `f` makes it.
    fn start(
        &self,
        call: &'static str,
        tensor: &Tensor,
        entered: Entered,
        f: impl FnOnce(*mut RawGroup, *const c_void) -> *mut c_char + Send + 'static,
    ) -> Result<Started<()>, CollectiveError> {
        if !tensor.is_contiguous() || tensor.device().is_cuda() {
            let (kind, strides) = (format!("{:?} on {:?}", tensor.kind(), tensor.device()), tensor.stride());
            return Err(CollectiveError::Tensor { call, kind, strides });
        }
        let (group, abort, rank) = (Arc::clone(&self.group), self.abort.clone(), self.rank);
        let held = tensor.shallow_clone();
        self.queue.start(call, bytes(tensor), move |which: Which, ready| {
            let failed = |trouble| match abort.is_tripped() {
                true => CollectiveError::Aborted { call, rank },
                false => which.failed("gloo", rank, trouble),
            };
            // What stood behind a call that failed is not begun: the others wait for nobody in it.
            if group.broken.load(Ordering::SeqCst) {
                return Err(failed(Trouble::new(Cause::Peers, "an earlier call of this group failed")));
            }
            ready();
            entered();
            // SAFETY: the C++ function answers null or a message from malloc.
            let done = unsafe { native::check(f(group.raw, held.as_ptr().cast())) };
            done.map_err(|e| {
                group.broken.store(true, Ordering::SeqCst);
                failed(of_words(e.0))
            })
        })
    }

    fn own(&self, call: &'static str, e: tch::TchError) -> CollectiveError {
        self.queue.uncounted(call).failed("gloo", self.rank, e)
    }
}

impl Drop for Gloo {
    /// What is still under way waits for ranks that nobody here waits for any more.
    fn drop(&mut self) {
        if self.queue.busy() {
            self.group.abort();
        }
    }
}

/// Nobody is to be told.
fn silent() -> Entered {
    Box::new(|| ())
}

impl Collective for Gloo {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
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
            ReduceOp::Sum => 0,
            ReduceOp::Max => 1,
        };
        // SAFETY: group and tensor are alive during the call.
        let reduce = move |group, t| unsafe { octrain_gloo_all_reduce(group, t, op) };
        Ok(Box::new(self.start("all_reduce", tensor, entered, reduce)?))
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        // SAFETY: group and tensor are alive during the call.
        let send = move |group, t| unsafe { octrain_gloo_broadcast(group, t, root as c_int) };
        self.start("broadcast", tensor, silent(), send)?.result().map(drop)
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        let call = "all_gather";
        let out = room_for_all(tensor, self.world_size).map_err(|e| self.own(call, e))?;
        let room = out.shallow_clone();
        // SAFETY: group and tensors are alive during the call.
        let gather = move |group, t| unsafe { octrain_gloo_all_gather(group, t, room.as_ptr().cast()) };
        self.start(call, tensor, silent(), gather)?.result()?;
        out.f_unbind(0).map_err(|e| self.own(call, e))
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        let one = Tensor::f_zeros([1], (Kind::Float, tch::Device::Cpu));
        self.all_reduce(&one.map_err(|e| self.own("barrier", e))?, ReduceOp::Sum)
    }

    /// Ends what still reads and writes tensors of this rank.
    fn abandon(&self) {
        self.group.broken.store(true, Ordering::SeqCst);
        if self.queue.busy() {
            self.group.abort();
            self.queue.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gloo_s_words_tell_who_waited_from_whose_peer_is_gone() {
        for (words, cause) in [
            (
                "[unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation to complete",
                Cause::Waited,
            ),
            ("[pair.cc:534] Application timeout caused pair closure", Cause::Waited),
            ("no answer from the other ranks within 600 s", Cause::Waited),
            ("at 10.0.0.7: rendezvous key `0/1` did not appear within 600 s", Cause::Waited),
            ("[pair.cc:534] Connection closed by peer [10.0.0.7]:40123", Cause::Peers),
            ("[pair.cc:534] Read error [10.0.0.7]:40123: Connection reset by peer", Cause::Peers),
            ("std::bad_alloc", Cause::Memory),
        ] {
            assert_eq!(of_words(words.into()).cause, cause, "{words}");
        }
    }
}
