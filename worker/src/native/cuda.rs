//! Our kernels on GPUs: compiled for a device when a tensor on it first needs one, launched on the stream that libtorch
//! computes on. The C++ operators allocate and call back here with the name of a kernel and its arguments.

use super::libraries::deps_dir;
use super::{NativeError, nvrtc};
use cudarc::driver::{result, sys};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The source of all kernels: one program.
pub const SOURCE: [&str; 5] = [
    include_str!("../../kernels/types.cuh"),
    include_str!("../../kernels/fake_quant.cu"),
    include_str!("../../kernels/eight.cuh"),
    include_str!("../../kernels/pointwise.cu"),
    include_str!("../../kernels/pool.cu"),
];

/// Threads of a block; `kOctrainThreads` of `device.h`.
pub(super) const THREADS: u32 = 256;

/// Blocks to start where there is work for `wanted`: at most what the device holds at once, as kernels loop over what is left.
pub(super) fn blocks(wanted: i64, held: i64) -> u32 {
    wanted.clamp(1, held.clamp(1, i64::from(i32::MAX))) as u32
}

/// `OctrainLaunch` of `device.h`.
#[repr(C)]
pub(super) struct Launch {
    pub kernel: *const c_char,
    pub device: i32,
    stream: sys::CUstream,
    pub blocks: i64,
    pub arguments: *mut *mut c_void,
}

/// `OctrainLauncher` of `device.h`: null, or a message from malloc.
pub(super) type Launcher = unsafe extern "C" fn(*const Launch) -> *mut c_char;

unsafe extern "C" {
    fn octrain_register_cuda(run: Launcher);
}

/// Where set-up puts libtorch's CUDA part.
pub fn library() -> PathBuf {
    deps_dir().join("libtorch-cuda/lib/libtorch_cuda.so")
}

/// Makes libtorch's CUDA part available where set-up has put it, and our kernels with it; says whether it
/// did. To be called before any tensor is made.
pub fn load() -> Result<bool, libloading::Error> {
    let library = library();
    if !library.is_file() {
        return Ok(false);
    }
    let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL;
    // SAFETY: libtorch's own initialisers, meant to run at any time before use.
    let library = unsafe { libloading::os::unix::Library::open(Some(&library), flags)? };
    // It registers itself with libtorch for good.
    std::mem::forget(library);
    register(run);
    Ok(true)
}

/// Who launches kernels for the operators. Does nothing on a GPU yet.
pub(super) fn register(launcher: Launcher) {
    // SAFETY: the type of `OctrainLauncher`; functions live as long as the process.
    unsafe { octrain_register_cuda(launcher) };
}

/// A kernel on one device.
#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Blocks of [`THREADS`] that the whole device holds at once, which its registers decide.
    held: i64,
}

/// The kernels of one device.
struct Kernels {
    context: sys::CUcontext,
    module: sys::CUmodule,
    processors: i64,
    /// Those that were launched before.
    functions: BTreeMap<CString, Function>,
}

// SAFETY: handles of the driver, which any thread may use; they are never freed.
unsafe impl Send for Kernels {}

static KERNELS: Mutex<BTreeMap<i32, Kernels>> = Mutex::new(BTreeMap::new());

fn failed(what: impl std::fmt::Display) -> impl FnOnce(result::DriverError) -> NativeError {
    move |e| NativeError(format!("CUDA, {what}: {e}"))
}

/// The device's context while this is alive. Threads of autograd may have none yet.
struct Current;

impl Current {
    fn enter(context: sys::CUcontext) -> Result<Self, NativeError> {
        // SAFETY: a primary context that is retained for good.
        unsafe { sys::cuCtxPushCurrent_v2(context) }.result().map_err(failed("entering the context"))?;
        Ok(Self)
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut context = std::ptr::null_mut();
        // SAFETY: takes off what `enter` has put on.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut context) };
    }
}

impl Kernels {
    fn load(ordinal: i32) -> Result<Self, NativeError> {
        use sys::CUdevice_attribute as A;
        result::init().map_err(failed("initialising"))?;
        let device = result::device::get(ordinal).map_err(failed(format_args!("device {ordinal}")))?;
        let attribute = |a: A| {
            // SAFETY: the device was just given by the driver.
            unsafe { result::device::get_attribute(device, a) }.map_err(failed("reading an attribute"))
        };
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let processors = i64::from(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?);
        let code = nvrtc::compile(&SOURCE.concat(), "kernels.cu", &format!("sm_{major}{minor}"))?;
        // SAFETY: the context libtorch uses too; it is kept for good.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(failed("retaining the context"))?;
        let _current = Current::enter(context)?;
        // SAFETY: `code` is a module's image, copied by the driver.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) }
            .map_err(failed("loading the kernels"))?;
        Ok(Self { context, module, processors, functions: BTreeMap::new() })
    }

    /// A kernel by its name.
    fn function(&mut self, name: &CStr) -> Result<Function, NativeError> {
        if let Some(known) = self.functions.get(name) {
            return Ok(*known);
        }
        let text = name.to_string_lossy();
        // SAFETY: the module is never unloaded.
        let handle =
            unsafe { result::module::get_function(self.module, name.into()) }.map_err(failed(&text))?;
        let mut each = 0;
        // SAFETY: `each` is writable, the function was just given by the driver.
        unsafe { sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut each, handle, THREADS as i32, 0) }
            .result()
            .map_err(failed(format_args!("occupancy of {text}")))?;
        let function = Function { handle, held: self.processors * i64::from(each) };
        self.functions.insert(name.into(), function);
        Ok(function)
    }
}

/// # Safety
/// What `l` says is true; see `device.h`.
unsafe fn start(l: &Launch) -> Result<(), NativeError> {
    let mut loaded = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
    let kernels = match loaded.entry(l.device) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(room) => room.insert(Kernels::load(l.device)?),
    };
    let _current = Current::enter(kernels.context)?;
    // SAFETY: the caller's promise: a C string that lives for the length of the call.
    let name = unsafe { CStr::from_ptr(l.kernel) };
    let function = kernels.function(name)?;
    let blocks = blocks(l.blocks, function.held);
    // SAFETY: the caller's promise: as many arguments as the kernel has, of its types; its module stays loaded.
    let result = unsafe {
        let none = std::ptr::null_mut();
        sys::cuLaunchKernel(function.handle, blocks, 1, 1, THREADS, 1, 1, 0, l.stream, l.arguments, none)
    };
    result.result().map_err(failed(format_args!("launching {}", name.to_string_lossy())))
}

/// What the C++ operators call. Null, or a message from malloc.
///
/// # Safety
/// `l` is an `OctrainLaunch` that holds for the length of the call.
pub(super) unsafe extern "C" fn run(l: *const Launch) -> *mut c_char {
    // A panic must not cross into C++.
    let started = std::panic::catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's promise.
        unsafe { start(&*l) }
    }));
    message(match started {
        Ok(Ok(())) => return std::ptr::null_mut(),
        Ok(Err(e)) => e.0,
        Err(_) => "the CUDA driver or NVRTC cannot be called (see the panic's message)".to_string(),
    })
}

/// A message from malloc, for the C++ side.
pub(super) fn message(message: String) -> *mut c_char {
    let message = CString::new(message.replace('\0', " ")).expect("no 0 is left");
    // SAFETY: copies a C string into memory from malloc, which the caller frees.
    unsafe { libc::strdup(message.as_ptr()) }
}
