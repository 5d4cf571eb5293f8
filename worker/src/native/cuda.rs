//! The fake-quant kernels on GPUs: compiled for a device when a tensor on it first needs them, launched on the stream
//! that libtorch computes on. The C++ operator allocates and calls back here with pointers.

use super::libraries::deps_dir;
use super::{NativeError, nvrtc};
use cudarc::driver::{result, sys};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Source of the kernels.
pub const SOURCE: &str = include_str!("../../kernels/fake_quant.cu");

/// Ends of the kernels' names, by `OctrainKind`.
const TYPES: [&str; 3] = ["f32", "bf16", "f16"];

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Elements of a warp's turn in `quantize` and `mask`: 32 lanes of 4.
const TILE: i64 = 128;

/// `OctrainKernel` of `fake_quant.h`.
pub(super) const QUANTIZE: i32 = 0;
pub(super) const MASK: i32 = 1;
pub(super) const LEARN: i32 = 2;

/// Turns of blocks that a kernel has to do over `rows` rows of `inner` elements; `chunk` elements a turn in `learn`.
pub(super) fn turns(kernel: i32, rows: i64, inner: i64, chunk: i64) -> i64 {
    let ceil = |a: i64, b: i64| (a + b - 1) / b;
    match kernel {
        LEARN => rows * ceil(inner, chunk),
        _ => ceil(rows * ceil(inner, TILE), i64::from(THREADS) / 32),
    }
}

/// Blocks to start for so many turns: at most what the device holds at once, as kernels loop over what is left.
pub(super) fn blocks(turns: i64, held: i64) -> u32 {
    turns.clamp(1, held.clamp(1, i64::from(i32::MAX))) as u32
}

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
    scales: *const f32,
    seen: *mut f32,
    scratch: *mut u64,
    partial: *mut f64,
    scale_gradient: *mut f32,
    rows: i64,
    inner: i64,
    row_words: i64,
    chunk: i64,
    qmin: f32,
    qmax: f32,
    min_scale: f32,
    grad_scale: f32,
}

unsafe extern "C" {
    fn octrain_register_cuda(run: unsafe extern "C" fn(*const Launch) -> *mut c_char);
}

/// Where set-up puts libtorch's CUDA part.
pub fn library() -> PathBuf {
    deps_dir().join("libtorch-cuda/lib/libtorch_cuda.so")
}

/// Makes libtorch's CUDA part available where set-up has put it, and the fake-quant kernels with it; says whether it
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
    register();
    Ok(true)
}

/// Lets the operator launch its kernels. To be called once libtorch's CUDA part is loaded; does nothing on a GPU yet.
fn register() {
    // SAFETY: `run` has the type of `OctrainLauncher` and lives as long as the process.
    unsafe { octrain_register_cuda(run) };
}

/// A kernel on one device.
#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Blocks of [`THREADS`] that the whole device holds at once, which its registers decide.
    held: i64,
}

/// The kernels of one device.
#[derive(Clone, Copy)]
struct Kernels {
    context: sys::CUcontext,
    quantize: [Function; 3],
    mask: [Function; 3],
    learn: [Function; 3],
    learn_sum: Function,
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
            let handle = unsafe { result::module::get_function(module, c) }.map_err(failed(&name))?;
            let mut each = 0;
            // SAFETY: `each` is writable, the function was just given by the driver.
            unsafe { sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut each, handle, THREADS as i32, 0) }
                .result()
                .map_err(failed(format_args!("occupancy of {name}")))?;
            Ok(Function { handle, held: processors * i64::from(each) })
        };
        let of_types = |kernel: &str| -> Result<[Function; 3], NativeError> {
            let [a, b, c] = TYPES.map(|name| function(format!("{kernel}_{name}")));
            Ok([a?, b?, c?])
        };
        Ok(Self {
            context,
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
        function: Function,
        turns: i64,
        stream: sys::CUstream,
        arguments: &mut [*mut c_void],
    ) -> Result<(), NativeError> {
        let blocks = blocks(turns, function.held);
        // SAFETY: the caller's promise; the function is of a module that stays loaded.
        unsafe {
            result::launch_kernel(function.handle, (blocks, 1, 1), (THREADS, 1, 1), 0, stream, arguments)
        }
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
    let turns = turns(l.kernel, l.rows, l.inner, l.chunk);
    // SAFETY: in each arm, the parameters of the kernel in fake_quant.cu, in order, and the caller's promise.
    unsafe {
        match l.kernel {
            QUANTIZE => {
                let list = arguments![
                    l.x,
                    l.y,
                    l.bits,
                    l.scales,
                    l.seen,
                    l.scratch,
                    l.rows,
                    l.inner,
                    l.qmin,
                    l.qmax,
                    l.min_scale
                ];
                Kernels::start(kernels.quantize[kind], turns, l.stream, list)
            }
            MASK => {
                let list = arguments![l.dy, l.y, l.bits, l.rows, l.inner];
                Kernels::start(kernels.mask[kind], turns, l.stream, list)
            }
            LEARN => {
                let pieces = (l.inner + l.chunk - 1) / l.chunk;
                let list = arguments![
                    l.x,
                    l.dy,
                    l.y,
                    l.scales,
                    l.partial,
                    l.rows,
                    l.inner,
                    l.chunk,
                    l.qmin,
                    l.qmax,
                    l.min_scale
                ];
                Kernels::start(kernels.learn[kind], turns, l.stream, list)?;
                let list = arguments![l.partial, l.scale_gradient, l.rows, pieces, l.grad_scale];
                Kernels::start(kernels.learn_sum, l.rows, l.stream, list)
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
