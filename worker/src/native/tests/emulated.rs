//! The CUDA kernels without a GPU: compiled as C++ over `kernels/emulation.cpp`, against the loops for CPUs, with
//! several sizes of the grid and both orders of threads and blocks.

use super::super::cuda::{self, Launch};
use super::super::pointwise::{self, Pointwise};
use super::learned::{close, sums};
use super::*;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

type Words = *const c_char;

/// The emulation's functions. It runs one launch at a time.
struct Emulation {
    launch: unsafe extern "C" fn(*const c_char, u32, u32, c_int, *mut *mut c_void) -> Words,
    divergence: unsafe extern "C" fn(u32) -> Words,
}

/// Compiles and loads the emulation, once in this process.
fn emulation() -> MutexGuard<'static, Emulation> {
    static LOADED: OnceLock<Mutex<Emulation>> = OnceLock::new();
    let load = || {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("emulation.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/emulation.cpp");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        // As build.rs compiles the loops: no contraction.
        let flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-o"];
        let done = Command::new(&compiler).args(flags).arg(&library).arg(source).output().unwrap();
        assert!(done.status.success(), "{compiler}: {}", String::from_utf8_lossy(&done.stderr));
        // SAFETY: the library has no initialisers but those of C++ containers.
        let library: &'static libloading::Library =
            Box::leak(Box::new(unsafe { libloading::Library::new(&library) }.unwrap()));
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type of the function of that name in emulation.cpp.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }.unwrap()
            };
        }
        Mutex::new(Emulation { launch: function!("emulated"), divergence: function!("emulated_divergence") })
    };
    LOADED.get_or_init(load).lock().unwrap_or_else(PoisonError::into_inner)
}

fn told(words: Words) -> Option<String> {
    // SAFETY: null or a C string of the emulation's, which lives until its next launch.
    (!words.is_null()).then(|| unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned())
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
struct Grid {
    /// At most so many blocks, as the device holds.
    most: i64,
    /// 0: from the first thread and block on; 1: from the last, each warp as far as it gets alone.
    order: c_int,
}

const GRIDS: [Grid; 4] = [
    Grid { most: 1, order: 0 },
    Grid { most: 2, order: 1 },
    Grid { most: 7, order: 0 },
    Grid { most: 1 << 20, order: 1 },
];

impl Grid {
    /// Runs a kernel that has work for so many blocks; what went wrong, if anything did.
    ///
    /// # Safety
    /// The arguments are addresses of values of the kernel's parameter types; pointers among them are sized as it says.
    unsafe fn launch(self, kernel: &CStr, wanted: i64, arguments: *mut *mut c_void) -> Option<String> {
        let blocks = cuda::blocks(wanted, self.most);
        // SAFETY: the caller's promise.
        told(unsafe { (emulation().launch)(kernel.as_ptr(), blocks, cuda::THREADS, self.order, arguments) })
    }
}

/// An argument of a kernel; its bytes, with zeros behind them.
enum Argument<'a> {
    Of(&'a Tensor),
    Long(i64),
    Float(f32),
}
use Argument::{Float, Long, Of};

impl Grid {
    /// [`Self::launch`] of a kernel for the elements' type `kind`.
    fn run(self, kernel: &str, wanted: i64, arguments: &[Argument]) {
        let mut words: Vec<u64> = arguments
            .iter()
            .map(|a| match a {
                Of(tensor) => tensor.data_ptr() as u64,
                Long(n) => *n as u64,
                Float(f) => f.to_bits().into(),
            })
            .collect();
        let mut list: Vec<*mut c_void> = words.iter_mut().map(|w| std::ptr::from_mut(w).cast()).collect();
        let name = CString::new(kernel).unwrap();
        // SAFETY: tensors of the sizes that the kernel's comment asks for; numbers lie at the beginning of their words.
        assert_eq!(unsafe { self.launch(&name, wanted, list.as_mut_ptr()) }, None);
    }
}

thread_local! {
    /// The grid of the launches that operators make in this thread.
    static GRID: Cell<Grid> = const { Cell::new(GRIDS[0]) };
}

/// The launcher of operators.
unsafe extern "C" fn run(l: *const Launch) -> *mut c_char {
    // SAFETY: as `device.h` says. Tensors on a GPU have kernels of their own.
    if unsafe { (*l).device } >= 0 {
        // SAFETY: the same launch.
        return unsafe { cuda::run(l) };
    }
    // SAFETY: as above.
    let (kernel, wanted, arguments) = unsafe { (CStr::from_ptr((*l).kernel), (*l).blocks, (*l).arguments) };
    // SAFETY: as above.
    match unsafe { GRID.get().launch(kernel, wanted, arguments) } {
        None => std::ptr::null_mut(),
        Some(failed) => cuda::message(failed),
    }
}

/// Lets operators launch kernels from this thread, in grids like this.
pub(super) fn grid(grid: usize) {
    cuda::register(run);
    GRID.set(GRIDS[grid % GRIDS.len()]);
}

/// Runs a chain by the kernels, in grids like this.
pub(super) fn chain(x: &Tensor, of: &Pointwise, by: usize) -> Tensor {
    grid(by);
    pointwise::run(x, of, pointwise::By { emulated: true, ..pointwise::By::default() }).unwrap().y
}

/// The same for two readers.
pub(super) fn chain_for_two(x: &Tensor, of: &Pointwise, by: usize) -> [Tensor; 2] {
    grid(by);
    let by = pointwise::By { twice: true, emulated: true, ..pointwise::By::default() };
    let pointwise::Made { y, second, .. } = pointwise::run(x, of, by).unwrap();
    [y, second.unwrap()]
}

const TYPES: [&str; 3] = ["f32", "bf16", "f16"];

/// `[rows, inner]` elements, one scale a row.
struct Case {
    kind: usize,
    x: Tensor,
    dy: Tensor,
    scales: Tensor,
    rows: i64,
    inner: i64,
    range: [i64; 2],
}

impl Case {
    fn new(kind: Kind, x: &Tensor, dy: &Tensor, scales: &[f32], range: [i64; 2]) -> Self {
        let rows = scales.len() as i64;
        let inner = x.numel() as i64 / rows;
        let kind = KINDS.iter().position(|k| *k == kind).unwrap();
        let [x, dy] = [x, dy].map(|t| t.contiguous().view([rows, inner]));
        Self { kind, x, dy, scales: Tensor::from_slice(scales), rows, inner, range }
    }

    /// Numbers without pattern, where row r has r + 1 times the scale.
    fn random(kind: Kind, rows: i64, inner: i64, scale: f32) -> Self {
        let n = (rows * inner) as usize;
        let make = |amplitude| Tensor::from_slice(&random(n, amplitude)).to_kind(kind);
        let scales: Vec<f32> = (0..rows).map(|r| scale * (r + 1) as f32).collect();
        Self::new(kind, &make(2.0), &make(1.0).flip([0i64]), &scales, [-127, 127])
    }

    fn bounds(&self) -> [f32; 2] {
        self.range.map(|q| q as f32)
    }

    /// What the kernels give: y, dx, and what an observer sees.
    fn emulated(&self, grid: Grid) -> [Tensor; 3] {
        let (y, dx) = (self.x.zeros_like() + 77, self.x.zeros_like() + 77);
        let words = (self.inner + 31) / 32;
        let bits = Tensor::full([self.rows * words], -1, (Kind::Int, Device::Cpu));
        let seen = Tensor::full([2], -1.0, (Kind::Float, Device::Cpu));
        let scratch = Tensor::zeros([2], (Kind::Int64, Device::Cpu));
        let [lo, hi] = self.bounds();
        let (kind, rows, inner) = (TYPES[self.kind], Long(self.rows), Long(self.inner));
        let wanted = (self.rows * ((self.inner + 127) / 128) + 7) / 8;
        let range = [Float(lo), Float(hi), Float(MIN_SCALE)];
        let given = [Of(&self.x), Of(&y), Of(&bits), Of(&self.scales), Of(&seen), Of(&scratch), rows, inner];
        let arguments: Vec<Argument> = given.into_iter().chain(range).collect();
        grid.run(&format!("quantize_{kind}"), wanted, &arguments);
        let arguments = [Of(&self.dy), Of(&dx), Of(&bits), Long(self.rows), Long(self.inner)];
        grid.run(&format!("mask_{kind}"), wanted, &arguments);
        [y, dx, seen]
    }

    /// The same by the loops for CPUs.
    fn on_cpu(&self) -> [Tensor; 3] {
        let x = self.x.detach().set_requires_grad(true);
        let [lo, hi] = self.range;
        let y = match self.rows {
            1 => fake_quant(&x, &self.scales, lo, hi, false),
            _ => fake_quant_per_channel(&x, &self.scales, lo, hi, false),
        };
        let y = y.unwrap();
        // Of the sum of products, so what arrives is `dy`.
        let dx = gradients(&y, &self.dy, &[&x]).remove(0);
        [y.detach(), dx, abs_max(&x).unwrap()]
    }

    fn learned(&self, grid: Grid, grad_scale: f32, chunk: i64) -> [Tensor; 2] {
        let dx = self.x.zeros_like() + 77;
        let pieces = (self.inner + chunk - 1) / chunk;
        let partial = Tensor::full([self.rows * pieces], 77.0, (Kind::Double, Device::Cpu));
        let by_scale = Tensor::full([self.rows], 77.0, (Kind::Float, Device::Cpu));
        let [lo, hi] = self.bounds();
        let given = [Of(&self.x), Of(&self.dy), Of(&dx), Of(&self.scales), Of(&partial)];
        let sizes = [self.rows, self.inner, chunk].map(Long);
        let range = [lo, hi, MIN_SCALE].map(Float);
        let arguments: Vec<Argument> = given.into_iter().chain(sizes).chain(range).collect();
        grid.run(&format!("learn_{}", TYPES[self.kind]), self.rows * pieces, &arguments);
        let arguments = [Of(&partial), Of(&by_scale), Long(self.rows), Long(pieces), Float(grad_scale)];
        grid.run("learn_sum", self.rows, &arguments);
        [dx, by_scale]
    }
}

/// The first element in which two tensors differ by a bit, NaN apart.
fn difference(a: &Tensor, b: &Tensor) -> Option<(usize, f32, f32)> {
    let (a, b) = (values(a), values(b));
    assert_eq!(a.len(), b.len());
    let differ = |a: f32, b: f32| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
    (0..a.len()).find(|&i| differ(a[i], b[i])).map(|i| (i, a[i], b[i]))
}

fn compare(case: &Case, grids: &[Grid]) {
    let want = case.on_cpu();
    for grid in grids {
        let got = case.emulated(*grid);
        for (what, (got, want)) in ["y", "dx", "seen"].into_iter().zip(got.iter().zip(&want)) {
            let at = format!("{what} of {} x {} of kind {}, {grid:?}", case.rows, case.inner, case.kind);
            assert_eq!(difference(got, want), None, "{at}");
        }
    }
}

#[test]
fn the_kernels_do_what_the_loops_for_cpus_do_on_the_whole_corpus() {
    for kind in KINDS {
        let x = corpus(kind);
        let dy = Tensor::from_slice(&random(x.numel(), 2.0)).to_kind(kind);
        let cases = [
            (0.013f32, [-127, 127]),
            (1e-7 / 127.0, [0, 127]),
            (-0.5, [-63, 63]),
            (1e30, [-128, 127]),
            (0.013, [0, 255]),
        ];
        for (i, (scale, range)) in cases.into_iter().enumerate() {
            compare(&Case::new(kind, &x, &dy, &[scale], range), &GRIDS[i % GRIDS.len()..][..1]);
        }
    }
}

#[test]
fn rows_of_every_length_around_words_and_tiles_are_whole_whatever_the_grid() {
    for kind in KINDS {
        for (rows, inner) in
            [(1, 1), (5, 1), (3, 31), (3, 32), (2, 33), (3, 127), (7, 128), (2, 129), (1, 4095), (19, 300)]
        {
            compare(&Case::random(kind, rows, inner, 0.004), &GRIDS);
        }
    }
}

#[test]
fn learned_scales_have_the_gradient_of_the_cpu() {
    for (kind, (rows, inner, chunk)) in
        KINDS.into_iter().flat_map(|k| [(1, 10_007, 4096), (3, 600, 256), (9, 33, 4096)].map(|s| (k, s)))
    {
        let case = Case::random(kind, rows, inner, 0.01);
        let scales = values(&case.scales);
        let want = case.on_cpu();
        for grid in GRIDS {
            let [dx, by_scale] = case.learned(grid, 1e-3, chunk);
            assert_eq!(difference(&dx, &want[1]), None, "{kind:?} {rows} x {inner}, {grid:?}");
            for (r, got) in values(&by_scale).into_iter().enumerate() {
                let (x, dy) = (values(&case.x.get(r as i64)), values(&case.dy.get(r as i64)));
                let want = sums(&x, &dy, scales[r], [-127, 127]);
                assert!(close(got, want, 1e-3), "{kind:?} row {r}, {grid:?}: {got}, not {want:?}");
            }
        }
    }
}

#[test]
fn a_barrier_in_divergent_code_is_told() {
    // SAFETY: launches a kernel without arguments.
    let words = told(unsafe { (emulation().divergence)(64) }).unwrap();
    assert!(words.contains("never come"), "{words}");
    // SAFETY: as above; one thread meets nobody but itself.
    assert_eq!(told(unsafe { (emulation().divergence)(1) }), None);
}
