//! Where a group's tensors lie, and how it is known that work there is done.

use super::result::{Handle, Library};
use super::sys::Stream;
use crate::collective::Cause;
use crate::collective::error::Trouble;
use cudarc::driver::result as cuda;
use cudarc::driver::sys::{CUcontext, CUresult, cuStreamQuery};
use std::sync::Arc;
use tch::Device;

/// Where the tensors of a rank lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this CUDA device of the process.
    Cuda(usize),
    /// In the host's memory, where only a stand-in for NCCL can work: for tests on machines without a GPU.
    StandIn,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Cuda(device) => write!(f, "CUDA device {device}"),
            Place::StandIn => write!(f, "host memory"),
        }
    }
}

/// A place that is ready for work.
pub(super) trait Side: Send + Sync {
    /// Where tensors must be.
    fn device(&self) -> Device;
    /// The stream that work is put on: the one libtorch computes on.
    fn stream(&self) -> Stream;
    /// Makes the place this thread's own; before each call.
    fn enter(&self) -> Result<(), Trouble>;
    /// Whether all work that was put on the stream is done.
    fn idle(&self, library: &Library, comm: Handle) -> Result<bool, Trouble>;
}

/// Makes a place ready.
pub(super) fn prepare(place: Place, library: &Library) -> Result<Arc<dyn Side>, Trouble> {
    match place {
        Place::Cuda(device) => Ok(Arc::new(Cuda::new(device)?)),
        Place::StandIn if library.is_stand_in() => Ok(Arc::new(Host)),
        Place::StandIn => Err(Trouble::new(
            Cause::Setup,
            format!(
                "{} works on GPUs only; the NCCL backend on CPUs is for tests with a stand-in",
                library.file().display()
            ),
        )),
    }
}

/// A device, by the primary context that libtorch uses too, and its legacy default stream, which is null.
struct Cuda {
    device: usize,
    context: CUcontext,
}

// SAFETY: a handle of the driver, which any thread may use; it is kept for good.
unsafe impl Send for Cuda {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Cuda {}

impl Cuda {
    fn new(device: usize) -> Result<Self, Trouble> {
        let failed = |e: cuda::DriverError| Trouble::own(format!("CUDA device {device}: {e}"));
        cuda::init().map_err(failed)?;
        let handle = cuda::device::get(device as i32).map_err(failed)?;
        // SAFETY: the device was just given by the driver; its context is never released.
        let context = unsafe { cuda::primary_ctx::retain(handle) }.map_err(failed)?;
        Ok(Self { device, context })
    }
}

impl Side for Cuda {
    fn device(&self) -> Device {
        Device::Cuda(self.device)
    }

    fn stream(&self) -> Stream {
        std::ptr::null_mut()
    }

    fn enter(&self) -> Result<(), Trouble> {
        // SAFETY: a primary context that is retained for good.
        unsafe { cuda::ctx::set_current(self.context) }
            .map_err(|e| Trouble::own(format!("CUDA device {}: {e}", self.device)))
    }

    fn idle(&self, _: &Library, _: Handle) -> Result<bool, Trouble> {
        // SAFETY: the null stream of the current context, see `enter`.
        match unsafe { cuStreamQuery(std::ptr::null_mut()) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            bad => Err(Trouble::own(format!("CUDA device {} says {bad:?}", self.device))),
        }
    }
}

/// The host's memory, where a stand-in works.
struct Host;

impl Side for Host {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn stream(&self) -> Stream {
        std::ptr::null_mut()
    }

    fn enter(&self) -> Result<(), Trouble> {
        Ok(())
    }

    fn idle(&self, library: &Library, comm: Handle) -> Result<bool, Trouble> {
        library.stand_in_idle(comm).ok_or_else(|| Trouble::own("the stand-in does not tell what it does"))
    }
}
