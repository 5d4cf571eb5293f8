//! The CUDA kernels without a GPU: compiled as C++ over `kernels/emulation.cpp`, against the loops for CPUs, with
//! several sizes of the grid and both orders of threads and blocks.

use super::super::cuda;
use super::learned::{close, sums};
use super::*;
use std::ffi::{CStr, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

type Words = *const c_char;
type Quantize = unsafe extern "C" fn(
    c_int,
    u32,
    u32,
    c_int,
    *const c_void,
    *mut c_void,
    *mut c_void,
    *const c_void,
    *mut c_void,
    *mut c_void,
    i64,
    i64,
    f32,
    f32,
    f32,
) -> Words;
type Mask = unsafe extern "C" fn(
    c_int,
    u32,
    u32,
    c_int,
    *const c_void,
    *mut c_void,
    *const c_void,
    i64,
    i64,
) -> Words;
type Learn = unsafe extern "C" fn(
    c_int,
    u32,
    u32,
    c_int,
    *const c_void,
    *const c_void,
    *mut c_void,
    *const c_void,
    *mut c_void,
    i64,
    i64,
    i64,
    f32,
    f32,
    f32,
) -> Words;
type LearnSum = unsafe extern "C" fn(u32, u32, c_int, *const c_void, *mut c_void, i64, i64, f32) -> Words;

/// The emulation's functions. It runs one launch at a time.
struct Emulation {
    quantize: Quantize,
    mask: Mask,
    learn: Learn,
    learn_sum: LearnSum,
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
        Mutex::new(Emulation {
            quantize: function!("emulated_quantize"),
            mask: function!("emulated_mask"),
            learn: function!("emulated_learn"),
            learn_sum: function!("emulated_learn_sum"),
            divergence: function!("emulated_divergence"),
        })
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
    fn blocks(self, turns: i64) -> u32 {
        cuda::blocks(turns, self.most)
    }
}

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
        let e = emulation();
        let (y, dx) = (self.x.zeros_like() + 77, self.x.zeros_like() + 77);
        let words = (self.inner + 31) / 32;
        let bits = Tensor::full([self.rows * words], -1, (Kind::Int, Device::Cpu));
        let seen = Tensor::full([2], -1.0, (Kind::Float, Device::Cpu));
        let scratch = Tensor::zeros([2], (Kind::Int64, Device::Cpu));
        let [lo, hi] = self.bounds();
        let blocks = grid.blocks(cuda::turns(cuda::QUANTIZE, self.rows, self.inner, 0));
        let threads = cuda::THREADS;
        // SAFETY: tensors of the sizes that the kernel's comment asks for.
        let failed = unsafe {
            (e.quantize)(
                self.kind as c_int,
                blocks,
                threads,
                grid.order,
                self.x.data_ptr(),
                y.data_ptr(),
                bits.data_ptr(),
                self.scales.data_ptr(),
                seen.data_ptr(),
                scratch.data_ptr(),
                self.rows,
                self.inner,
                lo,
                hi,
                MIN_SCALE,
            )
        };
        assert_eq!(told(failed), None);
        let blocks = grid.blocks(cuda::turns(cuda::MASK, self.rows, self.inner, 0));
        // SAFETY: as above.
        let failed = unsafe {
            (e.mask)(
                self.kind as c_int,
                blocks,
                threads,
                grid.order,
                self.dy.data_ptr(),
                dx.data_ptr(),
                bits.data_ptr(),
                self.rows,
                self.inner,
            )
        };
        assert_eq!(told(failed), None);
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
        let e = emulation();
        let dx = self.x.zeros_like() + 77;
        let pieces = (self.inner + chunk - 1) / chunk;
        let partial = Tensor::full([self.rows * pieces], 77.0, (Kind::Double, Device::Cpu));
        let by_scale = Tensor::full([self.rows], 77.0, (Kind::Float, Device::Cpu));
        let [lo, hi] = self.bounds();
        let blocks = grid.blocks(cuda::turns(cuda::LEARN, self.rows, self.inner, chunk));
        // SAFETY: tensors of the sizes that the kernel's comment asks for.
        let failed = unsafe {
            (e.learn)(
                self.kind as c_int,
                blocks,
                cuda::THREADS,
                grid.order,
                self.x.data_ptr(),
                self.dy.data_ptr(),
                dx.data_ptr(),
                self.scales.data_ptr(),
                partial.data_ptr(),
                self.rows,
                self.inner,
                chunk,
                lo,
                hi,
                MIN_SCALE,
            )
        };
        assert_eq!(told(failed), None);
        // SAFETY: as above.
        let failed = unsafe {
            let (from, to) = (partial.data_ptr(), by_scale.data_ptr());
            let blocks = grid.blocks(self.rows);
            (e.learn_sum)(blocks, cuda::THREADS, grid.order, from, to, self.rows, pieces, grad_scale)
        };
        assert_eq!(told(failed), None);
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
