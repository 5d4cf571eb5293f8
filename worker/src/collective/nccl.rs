//! NCCL, non-blocking: every wait polls NCCL's asynchronous error, the abort flag and a deadline.
//!
//! Calls run on CUDA's legacy default stream, where libtorch computes, so they are ordered after the kernels that
//! make their input. A call returns when the device has done it.

use super::{Abort, Collective, CollectiveError, ReduceOp, RendezvousStore};
use cudarc::driver::sys as driver;
use cudarc::nccl::sys;
use std::ffi::{CStr, c_int};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Key under which rank 0 puts NCCL's identifier of the group.
const KEY: &str = "nccl/unique-id";
/// NCCL's mark of a configuration.
const MAGIC: u32 = 0xcafe_beef;
/// NCCL's "not set".
const UNDEFINED: c_int = c_int::MIN;

/// A NCCL group of one GPU per rank.
pub struct Nccl {
    comm: sys::ncclComm_t,
    abort: Abort,
    rank: usize,
    world_size: usize,
    device: usize,
    timeout: Duration,
}

// SAFETY: a communicator may be used from any one thread at a time; `Nccl` is not `Sync`.
unsafe impl Send for Nccl {}

/// NCCL's words on a result, and on what went wrong last.
fn words(result: sys::ncclResult_t) -> String {
    // SAFETY: both return static strings or null.
    let (name, last) =
        unsafe { (sys::ncclGetErrorString(result), sys::ncclGetLastError(std::ptr::null_mut())) };
    let text = |p: *const std::ffi::c_char| match p.is_null() {
        true => String::new(),
        // SAFETY: a C string of NCCL's.
        false => unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned(),
    };
    format!("{} {}", text(name), text(last)).trim().to_string()
}

fn datatype(kind: Kind) -> Option<sys::ncclDataType_t> {
    use sys::ncclDataType_t as T;
    Some(match kind {
        Kind::Float => T::ncclFloat32,
        Kind::Double => T::ncclFloat64,
        Kind::Half => T::ncclFloat16,
        Kind::BFloat16 => T::ncclBfloat16,
        Kind::Int64 => T::ncclInt64,
        Kind::Uint8 => T::ncclUint8,
        _ => return None,
    })
}

impl Nccl {
    /// Connects all ranks, each with CUDA device `device` of its host. They meet in `store`; `timeout` bounds every
    /// call, and all of them, this one too, end once `abort` trips. A CUDA context must be current (libtorch's, after its first tensor on the device).
    pub fn connect(
        store: &dyn RendezvousStore,
        rank: usize,
        world_size: usize,
        device: usize,
        timeout: Duration,
        abort: &Abort,
    ) -> Result<Self, CollectiveError> {
        let failed = |why: String| CollectiveError::Connect { backend: "nccl", why };
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(CollectiveError::NoNccl("libnccl is not found".into()));
        }
        // Makes libtorch's context current in this thread.
        let _ = Tensor::zeros([1], (Kind::Float, Device::Cuda(device)));
        // SAFETY: a plain C structure of bytes.
        let mut id: sys::ncclUniqueId = unsafe { std::mem::zeroed() };
        if rank == 0 {
            // SAFETY: `id` is writable.
            let result = unsafe { sys::ncclGetUniqueId(&mut id) };
            if result != sys::ncclResult_t::ncclSuccess {
                return Err(failed(words(result)));
            }
            let bytes: Vec<u8> = id.internal.iter().map(|&b| b as u8).collect();
            store.set(KEY, &bytes).map_err(|e| failed(e.to_string()))?;
        } else {
            let bytes = store.get(KEY, timeout, abort).map_err(|e| failed(e.to_string()))?;
            if bytes.len() != id.internal.len() {
                return Err(failed("rank 0 has published an identifier of another NCCL version".into()));
            }
            id.internal.iter_mut().zip(bytes).for_each(|(to, from)| *to = from as _);
        }
        let mut version = 0;
        // SAFETY: `version` is writable.
        unsafe { sys::ncclGetVersion(&mut version) };
        // SAFETY: integers and pointers, for which zero is valid; what NCCL reads is set below.
        let mut config: sys::ncclConfig_t = unsafe { std::mem::zeroed() };
        let size = std::mem::size_of::<sys::ncclConfig_t>();
        // SAFETY: within the structure, whose fields are all integers or pointers; pointers are reset below.
        unsafe {
            let words: *mut c_int = (&raw mut config).cast();
            (0..size / std::mem::size_of::<c_int>()).for_each(|i| words.add(i).write(UNDEFINED));
        }
        config.size = size;
        config.magic = MAGIC;
        config.version = version as u32;
        config.blocking = 0;
        config.netName = std::ptr::null();
        config.commName = std::ptr::null();
        let abort = abort.clone();
        let mut group = Self { comm: std::ptr::null_mut(), abort, rank, world_size, device, timeout };
        // SAFETY: all pointers are valid during the call.
        let result = unsafe {
            sys::ncclCommInitRankConfig(&mut group.comm, world_size as c_int, id, rank as c_int, &mut config)
        };
        group.settle("connect", result)?;
        Ok(group)
    }

    fn error(&self, call: &'static str, why: String) -> CollectiveError {
        CollectiveError::Failed { backend: "nccl", call, rank: self.rank, why }
    }

    /// Whether to go on waiting.
    fn check(&self, call: &'static str, since: Instant) -> Result<(), CollectiveError> {
        if self.abort.is_tripped() {
            return Err(CollectiveError::Aborted { call, rank: self.rank });
        }
        if since.elapsed() > self.timeout {
            return Err(self
                .error(call, format!("no answer from the other ranks within {} s", self.timeout.as_secs())));
        }
        Ok(())
    }

    /// Waits until NCCL has taken a call.
    fn settle(&self, call: &'static str, result: sys::ncclResult_t) -> Result<(), CollectiveError> {
        let since = Instant::now();
        let mut state = result;
        loop {
            match state {
                sys::ncclResult_t::ncclSuccess => return Ok(()),
                sys::ncclResult_t::ncclInProgress => self.check(call, since)?,
                bad => return Err(self.error(call, words(bad))),
            }
            std::thread::sleep(Duration::from_micros(50));
            // SAFETY: the communicator is alive; `state` is writable.
            let asked = unsafe { sys::ncclCommGetAsyncError(self.comm, &mut state) };
            if asked != sys::ncclResult_t::ncclSuccess {
                return Err(self.error(call, words(asked)));
            }
        }
    }

    /// Starts a call on the tensor and waits until the device has done it.
    fn run(
        &self,
        call: &'static str,
        tensor: &Tensor,
        start: impl FnOnce(*mut std::ffi::c_void, usize, sys::ncclDataType_t) -> sys::ncclResult_t,
    ) -> Result<(), CollectiveError> {
        let datatype = datatype(tensor.kind()).filter(|_| tensor.is_contiguous());
        let (Some(datatype), Device::Cuda(_)) = (datatype, tensor.device()) else {
            let (kind, strides) = (format!("{:?} on {:?}", tensor.kind(), tensor.device()), tensor.stride());
            return Err(CollectiveError::Tensor { call, kind, strides });
        };
        if self.abort.is_tripped() {
            return Err(CollectiveError::Aborted { call, rank: self.rank });
        }
        self.settle(call, start(tensor.data_ptr(), tensor.numel(), datatype))?;
        let since = Instant::now();
        loop {
            // SAFETY: the null stream of the current context.
            match unsafe { driver::cuStreamQuery(std::ptr::null_mut()) } {
                driver::CUresult::CUDA_SUCCESS => return Ok(()),
                driver::CUresult::CUDA_ERROR_NOT_READY => self.check(call, since)?,
                bad => return Err(self.error(call, format!("CUDA says {bad:?}"))),
            }
            let mut state = sys::ncclResult_t::ncclSuccess;
            // SAFETY: the communicator is alive; `state` is writable.
            let asked = unsafe { sys::ncclCommGetAsyncError(self.comm, &mut state) };
            for result in [asked, state] {
                if !matches!(result, sys::ncclResult_t::ncclSuccess | sys::ncclResult_t::ncclInProgress) {
                    return Err(self.error(call, words(result)));
                }
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if !self.comm.is_null() {
            // SAFETY: the communicator is alive and no call is in progress in this thread, the only user. Abort
            // and not finalize: peers may be gone.
            unsafe { sys::ncclCommAbort(self.comm) };
        }
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<(), CollectiveError> {
        let op = match op {
            ReduceOp::Sum => sys::ncclRedOp_t::ncclSum,
            ReduceOp::Max => sys::ncclRedOp_t::ncclMax,
        };
        // SAFETY: the tensor's memory, of that many elements, on the communicator's device.
        self.run("all_reduce", tensor, |p, n, t| unsafe {
            sys::ncclAllReduce(p, p, n, t, op, self.comm, std::ptr::null_mut())
        })
    }

    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), CollectiveError> {
        // SAFETY: as above.
        self.run("broadcast", tensor, |p, n, t| unsafe {
            sys::ncclBroadcast(p, p, n, t, root as c_int, self.comm, std::ptr::null_mut())
        })
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>, CollectiveError> {
        let mut shape = tensor.size();
        shape.insert(0, self.world_size as i64);
        let out = Tensor::zeros(shape.as_slice(), (tensor.kind(), tensor.device()));
        // SAFETY: as above; `out` holds as many tensors as there are ranks.
        self.run("all_gather", tensor, |p, n, t| unsafe {
            sys::ncclAllGather(p, out.data_ptr(), n, t, self.comm, std::ptr::null_mut())
        })?;
        Ok(out.unbind(0))
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.all_reduce(&Tensor::zeros([1], (Kind::Float, Device::Cuda(self.device))), ReduceOp::Sum)
    }
}
