//! The operator against plain FP64 arithmetic, the same tests on every device.

mod cost;
mod depthwise;
mod devices;
mod emulated;
mod gpu;
mod int8;
mod isa;
mod kernels;
mod layout;
mod learned;
mod pointwise;
mod two_readers;
mod values;

use super::*;
use half::{bf16, f16};
use tch::{Device, Kind};

const KINDS: [Kind; 3] = [Kind::Float, Kind::BFloat16, Kind::Half];

/// The CPU, and the first GPU where there is one.
fn devices() -> Vec<Device> {
    let found = load_cuda().expect("libtorch's CUDA part loads where it has been set up");
    if found && tch::Cuda::is_available() {
        return vec![Device::Cpu, Device::Cuda(0)];
    }
    skipped("kernels on CUDA: there is no GPU, or scripts/setup.sh has not fetched libtorch's CUDA part");
    vec![Device::Cpu]
}

/// Says past the test harness, which keeps what passing tests print to itself, that something was not run.
fn skipped(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Words without pattern (xorshift).
fn random_bits(n: usize) -> Vec<u32> {
    let mut state = 0x2545_f491u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..n).map(|_| next()).collect()
}

/// `n` numbers in `[-amplitude, amplitude]`.
fn random(n: usize, amplitude: f32) -> Vec<f32> {
    random_bits(n).into_iter().map(|u| (u as f32 / u32::MAX as f32 - 0.5) * 2.0 * amplitude).collect()
}

/// Every value that BF16 or FP16 has; for FP32 special values, random bit patterns and ordinary numbers.
fn corpus(kind: Kind) -> Tensor {
    match kind {
        Kind::Half | Kind::BFloat16 => {
            let words: Vec<i16> = (i16::MIN..=i16::MAX).collect();
            Tensor::from_slice(&words).view_dtype(kind)
        }
        _ => {
            let special = [
                0.0,
                0.5,
                1.5,
                2.5,
                126.5,
                127.5,
                254.5,
                255.5,
                1e-7,
                1e-38,
                1e30,
                f32::from_bits(1),
                f32::MIN_POSITIVE,
                f32::MAX,
                f32::INFINITY,
                f32::NAN,
            ];
            let mut x: Vec<f32> = special.iter().flat_map(|v| [*v, -*v]).collect();
            x.extend(random_bits(40_003).into_iter().map(f32::from_bits));
            x.extend(random(40_001, 3.0));
            Tensor::from_slice(&x)
        }
    }
}

/// `t` in FP32, in logical order.
fn values(t: &Tensor) -> Vec<f32> {
    let t = t.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    Vec::<f32>::try_from(&t.flatten(0, -1)).unwrap()
}

/// `v` as a tensor of `kind` holds it.
fn rounded(v: f32, kind: Kind) -> f32 {
    match kind {
        Kind::Half => f16::from_f32(v).to_f32(),
        Kind::BFloat16 => bf16::from_f32(v).to_f32(),
        _ => v,
    }
}

/// What the operator says of one element, in FP64. A quotient of two FP32 numbers made in FP64 and rounded to FP32 is
/// the correctly rounded one.
struct Expected {
    /// In FP32, before it is rounded to the tensor's type.
    y: f32,
    /// Whether the code was not clamped.
    inside: bool,
    /// Derivative of `y` by the scale.
    by_scale: f64,
}

fn expected(x: f32, scale: f32, [qmin, qmax]: [i64; 2]) -> Expected {
    let scale = f64::from(if scale < MIN_SCALE { MIN_SCALE } else { scale });
    let v = f64::from((f64::from(x) / scale) as f32);
    let (q, qmin, qmax) = (v.round_ties_even(), qmin as f64, qmax as f64);
    let inside = q >= qmin && q <= qmax;
    let code = if q.is_nan() { q } else { q.clamp(qmin, qmax) };
    Expected { y: (code * scale) as f32, inside, by_scale: if inside { q - v } else { code } }
}

/// Equal, or both NaN.
fn same(a: f32, b: f32) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

/// Gradients of `sum(y * dy)` by `by`.
fn gradients(y: &Tensor, dy: &Tensor, by: &[&Tensor]) -> Vec<Tensor> {
    Tensor::run_backward(&[(y * dy).sum(Kind::Float)], by, false, false)
}

fn scale_on(device: Device, scale: f32) -> Tensor {
    Tensor::from_slice(&[scale]).to_device(device)
}
