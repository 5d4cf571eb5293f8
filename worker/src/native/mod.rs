//! Bindings to the C++ parts: the fake-quant operator, the observer's statistic, chains of operators as one, libraries loaded
//! at run time.
//!
//! The operator computes `y = clamp(round_half_even(x / scale), qmin, qmax) * scale` in FP32 to the last bit of a true division, as ONNX
//! QuantizeLinear and DequantizeLinear do. `x` is FP32, BF16 or FP16 in any memory order, which is kept; `y` and the
//! gradient have its type. Scales are FP32, on the device of `x`; one below [`MIN_SCALE`] counts as [`MIN_SCALE`]. NaN
//! stays NaN. Forward leaves one bit an element for backward.
//!
//! On CPUs the loops exist for AVX-512, AVX2 and plain x86-64, chosen at run time, with results equal bit for bit; on
//! GPUs the kernels are compiled by NVRTC when a tensor first needs them.

mod cuda;
mod depthwise;
pub mod devices;
mod error;
mod gpu;
mod gradients;
mod int8;
mod interfaces;
mod leave;
pub mod libraries;
mod memory;
mod nvrtc;
#[cfg(feature = "engines")]
pub mod openvino_profile;
mod pointwise;
mod products;
mod threads;
mod update;
mod upload;

pub use cuda::{library as cuda_library, load as load_cuda};
pub use depthwise::{Taps, depthwise};
pub(crate) use error::check;
pub use error::{NativeError, says_no_memory};
pub use gpu::{max_pool, weight};
pub use gradients::on_gradient;
pub use int8::{
    Codes, Int8Product, WeightCodes, codes, int8_pack, int8_product, int8_products, max_pool_of_codes,
    weight_on_cpu,
};
pub use interfaces::interfaces;
pub use leave::leave;
pub use memory::keep_freed;
pub use pointwise::{Cut, Norm, Pointwise, Rounding, pointwise, pointwise_for_two, pointwise_with_codes};
pub use products::bf16_products;
pub use threads::alone;
pub use update::{AdamWNumbers, adamw, sgd};
pub use upload::{Upload, pinned};

use crate::quant::scheme::MIN_SCALE;
use std::ffi::{c_char, c_void};
use tch::Tensor;

/// How the operator differentiates; the values are those of `OctrainGradient` in `fake_quant.h`.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Gradient {
    Clipped = 0,
    Unclipped = 1,
    Learned = 2,
}

impl Gradient {
    fn straight_through(unclipped: bool) -> Self {
        if unclipped { Self::Unclipped } else { Self::Clipped }
    }
}

/// `OctrainFakeQuant` of `fake_quant.h`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Options {
    qmin: i64,
    qmax: i64,
    min_scale: f32,
    grad_scale: f32,
    gradient: Gradient,
    per_channel: i32,
}

impl Options {
    fn new(qmin: i64, qmax: i64, gradient: Gradient, per_channel: bool) -> Self {
        Self { qmin, qmax, min_scale: MIN_SCALE, grad_scale: 0.0, gradient, per_channel: per_channel.into() }
    }
}

unsafe extern "C" {
    fn octrain_fake_quant(
        out: *mut *mut c_void,
        seen: *mut *mut c_void,
        x: *const c_void,
        scales: *const c_void,
        options: *const Options,
    ) -> *mut c_char;
    fn octrain_abs_max(out: *mut *mut c_void, x: *const c_void) -> *mut c_char;
    fn octrain_deterministic(on: bool) -> *mut c_char;
    fn octrain_has_cuda_guard() -> bool;
}

/// Takes the tensor a C++ function has made.
fn made(call: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Result<Tensor, NativeError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: the C++ side returns null or a message from malloc.
    unsafe { check(call(&mut out))? };
    // SAFETY: without an error `out` is a new `at::Tensor` that is ours.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

fn quantized(x: &Tensor, scales: &Tensor, options: Options) -> Result<Tensor, NativeError> {
    // SAFETY: all pointers are live; the operator keeps none of them. Null: nothing is observed.
    made(|out| unsafe {
        octrain_fake_quant(
            out,
            std::ptr::null_mut(),
            x.as_ptr().cast(),
            scales.as_ptr().cast(),
            &raw const options,
        )
    })
}

fn quantized_and_seen(
    x: &Tensor,
    scales: &Tensor,
    options: Options,
) -> Result<(Tensor, Tensor), NativeError> {
    let mut seen = std::ptr::null_mut();
    // SAFETY: all pointers are live; the operator keeps none of them.
    let y = made(|out| unsafe {
        octrain_fake_quant(out, &mut seen, x.as_ptr().cast(), scales.as_ptr().cast(), &raw const options)
    })?;
    // SAFETY: without an error `seen` is a new `at::Tensor` that is ours.
    Ok((y, unsafe { Tensor::from_ptr(seen.cast()) }))
}

/// Fake-quantizes `x` with one `scale`, an FP32 tensor of one element. The gradient passes where nothing was clamped,
/// or everywhere with `unclipped`.
pub fn fake_quant(
    x: &Tensor,
    scale: &Tensor,
    qmin: i64,
    qmax: i64,
    unclipped: bool,
) -> Result<Tensor, NativeError> {
    quantized(x, scale, Options::new(qmin, qmax, Gradient::straight_through(unclipped), false))
}

/// [`fake_quant`] with one scale for each index of the first dimension: `scales` is `[x.size(0)]`.
pub fn fake_quant_per_channel(
    x: &Tensor,
    scales: &Tensor,
    qmin: i64,
    qmax: i64,
    unclipped: bool,
) -> Result<Tensor, NativeError> {
    quantized(x, scales, Options::new(qmin, qmax, Gradient::straight_through(unclipped), true))
}

/// [`fake_quant`] and [`abs_max`] of the same `x`, which is read once: `(y, [absmax, count of others])`.
pub fn observe_fake_quant(
    x: &Tensor,
    scale: &Tensor,
    qmin: i64,
    qmax: i64,
    unclipped: bool,
) -> Result<(Tensor, Tensor), NativeError> {
    quantized_and_seen(x, scale, Options::new(qmin, qmax, Gradient::straight_through(unclipped), false))
}

/// [`fake_quant`] with a learnable scale (LSQ; Esser et al., arXiv 1902.08153). `scale` has one element and may require
/// a gradient, which is, with the sum over all elements in double precision and in an order that does not depend on
/// threads,
///
/// ```text
/// grad_scale * sum(dy * (q - x / scale where q was not clamped, else the bound it was clamped to))
/// ```
///
/// The paper's `grad_scale` is `1 / sqrt(x.numel() * qmax)`; where the loss is scaled for FP16 or summed over
/// microbatches, the scale's gradient is as `x`'s is. The gradient of `x` is [`fake_quant`]'s without `unclipped`. A
/// scale below [`MIN_SCALE`] quantizes as [`MIN_SCALE`] and has the gradient of that, so it can recover. NaN in `x` makes
/// the scale's gradient NaN. `x` itself is kept for backward. It cannot be differentiated twice.
pub fn fake_quant_learned(
    x: &Tensor,
    scale: &Tensor,
    qmin: i64,
    qmax: i64,
    grad_scale: f32,
) -> Result<Tensor, NativeError> {
    quantized(x, scale, Options { grad_scale, ..Options::new(qmin, qmax, Gradient::Learned, false) })
}

/// [`fake_quant_learned`] and [`abs_max`] of the same `x`, which is read once.
pub fn observe_fake_quant_learned(
    x: &Tensor,
    scale: &Tensor,
    qmin: i64,
    qmax: i64,
    grad_scale: f32,
) -> Result<(Tensor, Tensor), NativeError> {
    quantized_and_seen(x, scale, Options { grad_scale, ..Options::new(qmin, qmax, Gradient::Learned, false) })
}

/// [`fake_quant_learned`] with one scale for each index of the first dimension; the paper's `grad_scale` is then
/// `1 / sqrt(elements of a channel * qmax)`.
pub fn fake_quant_learned_per_channel(
    x: &Tensor,
    scales: &Tensor,
    qmin: i64,
    qmax: i64,
    grad_scale: f32,
) -> Result<Tensor, NativeError> {
    quantized(x, scales, Options { grad_scale, ..Options::new(qmin, qmax, Gradient::Learned, true) })
}

/// `[absmax over finite values, count of NaN and infinite ones]`, FP32, on the device of `x`. An empty tensor has
/// absmax 0.
pub fn abs_max(x: &Tensor) -> Result<Tensor, NativeError> {
    // SAFETY: the pointer is a live tensor; the function does not keep it.
    made(|out| unsafe { octrain_abs_max(out, x.as_ptr().cast()) })
}

/// Allows deterministic kernels only, from now on in this process: an operation that has none is an error.
pub fn deterministic(on: bool) -> Result<(), NativeError> {
    // SAFETY: sets a flag of libtorch.
    unsafe { check(octrain_deterministic(on)) }
}

/// Whether libtorch's CUDA part has registered itself with libtorch, which it does when it is loaded, GPU or not.
pub fn has_cuda_guard() -> bool {
    // SAFETY: reads a table of libtorch.
    unsafe { octrain_has_cuda_guard() }
}

#[cfg(test)]
mod tests;
