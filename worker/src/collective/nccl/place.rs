//! Where a group's tensors lie, and how it is known that work there is done.

use super::result::{Handle, Library};
use super::sys::Stream;
use crate::collective::Cause;
use crate::collective::error::Trouble;
use cudarc::driver::result as cuda;
use cudarc::driver::sys::{CUcontext, CUevent, CUevent_flags, CUresult, cuEventQuery, cuStreamQuery};
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
    /// The stream that collectives are put on.
    fn stream(&self) -> Stream;
    /// Makes the place this thread's own; before each call.
    fn enter(&self) -> Result<(), Trouble>;
    /// A mark behind all that libtorch has given the device so far.
    fn mark(&self) -> Result<Mark, Trouble>;
    /// Whether the device has come to the mark.
    fn passed(&self, mark: &Mark) -> Result<bool, Trouble>;
    /// Whether all that libtorch has given the device is done.
    fn quiet(&self) -> Result<bool, Trouble>;
    /// Whether the collectives that were put on the stream are done.
    fn idle(&self, comm: Handle) -> Result<bool, Trouble>;
}

/// A place in the work of a device; on the host there are none, where work is done when libtorch returns.
pub(super) struct Mark(Option<CUevent>);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Mark {}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some(event) = self.0.take() {
            // SAFETY: made by `mark` and destroyed once; the driver keeps what is still to be recorded.
            let _ = unsafe { cuda::event::destroy(event) };
        }
    }
}

/// Makes a place ready for a rank.
pub(super) fn prepare(
    place: Place,
    library: &'static Library,
    rank: usize,
) -> Result<Arc<dyn Side>, Trouble> {
    match place {
        Place::Cuda(device) => Ok(Arc::new(Cuda::new(device)?)),
        Place::StandIn if library.is_stand_in() => Ok(Arc::new(Host { library, rank })),
        Place::StandIn => Err(Trouble::new(
            Cause::Setup,
            format!(
                "{} works on GPUs only; the NCCL backend on CPUs is for tests with a stand-in",
                library.file().display()
            ),
        )),
    }
}

/// A device, by the primary context that libtorch uses too, and a stream that does not wait for the legacy default one, which is
/// null.
struct Cuda {
    device: usize,
    context: CUcontext,
    stream: Stream,
}

// SAFETY: handles of the driver, which any thread may use; they are kept for good.
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
        // SAFETY: a primary context that is retained for good.
        unsafe { cuda::ctx::set_current(context) }.map_err(failed)?;
        let stream = cuda::stream::create(cuda::stream::StreamKind::NonBlocking).map_err(failed)?;
        Ok(Self { device, context, stream: stream.cast() })
    }

    /// What the driver's answer to a question says.
    fn answered(&self, answer: CUresult) -> Result<bool, Trouble> {
        match answer {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            bad => Err(Trouble::own(format!("CUDA device {} says {bad:?}", self.device))),
        }
    }

    fn failed(&self, e: cuda::DriverError) -> Trouble {
        Trouble::own(format!("CUDA device {}: {e}", self.device))
    }
}

impl Side for Cuda {
    fn device(&self) -> Device {
        Device::Cuda(self.device)
    }

    fn stream(&self) -> Stream {
        self.stream
    }

    fn enter(&self) -> Result<(), Trouble> {
        // SAFETY: a primary context that is retained for good.
        unsafe { cuda::ctx::set_current(self.context) }.map_err(|e| self.failed(e))
    }

    fn mark(&self) -> Result<Mark, Trouble> {
        let event =
            cuda::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(|e| self.failed(e))?;
        let mark = Mark(Some(event));
        // SAFETY: the event was just made in the current context, see `enter`, and so is the null stream that context's.
        unsafe { cuda::event::record(event, std::ptr::null_mut()) }.map_err(|e| self.failed(e))?;
        Ok(mark)
    }

    fn passed(&self, mark: &Mark) -> Result<bool, Trouble> {
        let Some(event) = mark.0 else { return Ok(true) };
        // SAFETY: an event that lives as long as the mark.
        self.answered(unsafe { cuEventQuery(event) })
    }

    fn quiet(&self) -> Result<bool, Trouble> {
        // SAFETY: the null stream of the current context, see `enter`.
        self.answered(unsafe { cuStreamQuery(std::ptr::null_mut()) })
    }

    fn idle(&self, _: Handle) -> Result<bool, Trouble> {
        // SAFETY: a stream that is kept for good.
        self.answered(unsafe { cuStreamQuery(self.stream.cast()) })
    }
}

/// The host's memory, where a stand-in works.
struct Host {
    library: &'static Library,
    rank: usize,
}

impl Host {
    fn told(answer: Option<bool>) -> Result<bool, Trouble> {
        answer.ok_or_else(|| Trouble::own("the stand-in does not tell what it does"))
    }
}

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

    fn mark(&self) -> Result<Mark, Trouble> {
        Ok(Mark(None))
    }

    fn passed(&self, _: &Mark) -> Result<bool, Trouble> {
        self.quiet()
    }

    fn quiet(&self) -> Result<bool, Trouble> {
        Self::told(self.library.stand_in_quiet(self.rank))
    }

    fn idle(&self, comm: Handle) -> Result<bool, Trouble> {
        Self::told(self.library.stand_in_idle(comm))
    }
}
