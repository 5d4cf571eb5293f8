//! The fake-quant kernels on GPUs: compiled for a device when a tensor on it first needs them, launched on the stream
//! that libtorch computes on. The C++ operator allocates and calls back here with pointers.

use super::libraries::deps_dir;
use super::{NativeError, nvrtc};
use cudarc::driver::{result, sys};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};

/// Source of the kernels.
pub const SOURCE: &str = include_str!("../../kernels/fake_quant.cu");

/// Ends of the kernels' names, by `OctrainKind`.
const TYPES: [&str; 3] = ["f32", "bf16", "f16"];

const THREADS: u32 = 256;
/// Blocks of [`THREADS`] that a multiprocessor holds at once; kernels loop over what is left.
const BLOCKS_PER_PROCESSOR: i64 = 8;
/// Elements of a warp's turn in `quantize`: 32 lanes of 4.
const TILE: i64 = 128;

/// `OctrainLaunch` of `fake_quant.h`.
#[repr(C)]
struct Launch {
    kernel: i32,
    kind: i32,
    device: i32,
    per_channel: i32,
    stream: sys::CUstream,
    x: *const c_void,
    dy: *const c_void,
    y: *mut c_void,
    bits: *mut u32,
    steps: *const f32,
    seen: *mut f32,
    scratch: *mut u64,
    partial: *mut f64,
    step_gradient: *mut f32,
    rows: i64,
    inner: i64,
    row_words: i64,
    chunk: i64,
    qmin: f32,
    qmax: f32,
    min_step: f32,
    grad_scale: f32,
}

unsafe extern "C" {
    fn octrain_register_cuda(run: unsafe extern "C" fn(*const Launch) -> *mut c_char);
}

/// Makes libtorch's CUDA part available where set-up has put it, and the fake-quant kernels with it; says whether it
/// did. To be called before any tensor is made.
pub fn load() -> Result<bool, libloading::Error> {
    let library = deps_dir().join("libtorch-cuda/lib/libtorch_cuda.so");
    if !library.is_file() {
        return Ok(false);
    }
    let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL;
    // SAFETY: libtorch's own initialisers, meant to run at any time before use.
    let library = unsafe { libloading::os::unix::Library::open(Some(&library), flags)? };
    // It registers itself with libtorch for good.
    std::mem::forget(library);
    register();
    Ok(true)
}

/// Lets the operator launch its kernels. To be called once libtorch's CUDA part is loaded; does nothing on a GPU yet.
fn register() {
    // SAFETY: `run` has the type of `OctrainLauncher` and lives as long as the process.
    unsafe { octrain_register_cuda(run) };
}

/// The kernels of one device.
#[derive(Clone, Copy)]
struct Kernels {
    context: sys::CUcontext,
    processors: i64,
    quantize: [sys::CUfunction; 3],
    mask: [sys::CUfunction; 3],
    learn: [sys::CUfunction; 3],
    learn_sum: sys::CUfunction,
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
        let processors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.into();
        let code = nvrtc::compile(SOURCE, "fake_quant.cu", &format!("sm_{major}{minor}"))?;
        // SAFETY: the context libtorch uses too; it is kept for good.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(failed("retaining the context"))?;
        let _current = Current::enter(context)?;
        // SAFETY: `code` is a module's image, copied by the driver.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) }
            .map_err(failed("loading the kernels"))?;
        let function = |name: String| {
            let c = CString::new(name.as_str()).expect("kernel names have no 0");
            // SAFETY: the module is never unloaded.
            unsafe { result::module::get_function(module, c) }.map_err(failed(name))
        };
        let of_types = |kernel: &str| -> Result<[sys::CUfunction; 3], NativeError> {
            let [a, b, c] = TYPES.map(|name| function(format!("{kernel}_{name}")));
            Ok([a?, b?, c?])
        };
        Ok(Self {
            context,
            processors,
            quantize: of_types("quantize")?,
            mask: of_types("mask")?,
            learn: of_types("learn")?,
            learn_sum: function("learn_sum".into())?,
        })
    }

    fn of(ordinal: i32) -> Result<Self, NativeError> {
        let mut loaded = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = loaded.get(&ordinal) {
            return Ok(*kernels);
        }
        let kernels = Self::load(ordinal)?;
        loaded.insert(ordinal, kernels);
        Ok(kernels)
    }

    /// Starts `function` with enough blocks for `turns`, at most what the device holds at once.
    ///
    /// # Safety
    /// `arguments` point to values of the kernel's parameter types; pointers among them are the device's and sized as
    /// the launch says.
    unsafe fn start(
        &self,
        function: sys::CUfunction,
        turns: i64,
        stream: sys::CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), NativeError> {
        let blocks = turns.clamp(1, self.processors * BLOCKS_PER_PROCESSOR) as u32;
        // SAFETY: the caller's promise; the function is of a module that stays loaded.
        unsafe { result::launch_kernel(function, (blocks, 1, 1), (THREADS, 1, 1), 0, stream, arguments) }
            .map_err(failed("launching a fake-quant kernel"))
    }
}

/// Arguments of a kernel: addresses of values.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { &mut [$((&raw const $value).cast_mut().cast::<c_void>()),*] };
}

/// # Safety
/// What `l` says of pointers and sizes is true; see `fake_quant.h`.
unsafe fn start(l: &Launch) -> Result<(), NativeError> {
    let kind = usize::try_from(l.kind).ok().filter(|k| *k < TYPES.len());
    let kind = kind.ok_or_else(|| NativeError(format!("no kernel for type {}", l.kind)))?;
    let kernels = Kernels::of(l.device)?;
    let _current = Current::enter(kernels.context)?;
    let warps = i64::from(THREADS) / 32;
    // SAFETY: in each arm, the parameters of the kernel in fake_quant.cu, in order, and the caller's promise.
    unsafe {
        match l.kernel {
            0 => {
                let turns = (l.rows * ((l.inner + TILE - 1) / TILE) + warps - 1) / warps;
                let list = arguments![
                    l.x, l.y, l.bits, l.steps, l.seen, l.scratch, l.rows, l.inner, l.qmin, l.qmax, l.min_step
                ];
                kernels.start(kernels.quantize[kind], turns, l.stream, list)
            }
            1 => {
                let turns = (l.rows * l.row_words + warps - 1) / warps;
                let list = arguments![l.dy, l.y, l.bits, l.rows, l.inner];
                kernels.start(kernels.mask[kind], turns, l.stream, list)
            }
            2 => {
                let pieces = (l.inner + l.chunk - 1) / l.chunk;
                let list = arguments![
                    l.x, l.dy, l.y, l.steps, l.partial, l.rows, l.inner, l.chunk, l.qmin, l.qmax, l.min_step
                ];
                kernels.start(kernels.learn[kind], l.rows * pieces, l.stream, list)?;
                let list = arguments![l.partial, l.step_gradient, l.rows, pieces, l.grad_scale];
                kernels.start(kernels.learn_sum, l.rows, l.stream, list)
            }
            other => Err(NativeError(format!("no kernel number {other}"))),
        }
    }
}

/// What the C++ operator calls. Null, or a message from malloc.
///
/// # Safety
/// `l` is an `OctrainLaunch` that holds for the length of the call.
unsafe extern "C" fn run(l: *const Launch) -> *mut c_char {
    // A panic must not cross into C++.
    let started = std::panic::catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's promise.
        unsafe { start(&*l) }
    }));
    let message = match started {
        Ok(Ok(())) => return std::ptr::null_mut(),
        Ok(Err(e)) => e.0,
        Err(_) => "the CUDA driver or NVRTC cannot be called (see the panic's message)".to_string(),
    };
    let message = CString::new(message.replace('\0', " ")).expect("no 0 is left");
    // SAFETY: copies a C string into memory from malloc, which the caller frees.
    unsafe { libc::strdup(message.as_ptr()) }
}
