//! Bindings to the C++ parts: the fake-quant operator, the observer's statistic, libraries loaded at run time.

mod error;
pub mod libraries;
pub mod openvino_profile;

pub use error::NativeError;
pub(crate) use error::check;

use std::ffi::{c_char, c_void};
use tch::Tensor;

unsafe extern "C" {
    fn octrain_fake_quant(
        out: *mut *mut c_void,
        x: *const c_void,
        steps: *const c_void,
        qmin: i64,
        qmax: i64,
        per_channel: bool,
        pass_through: bool,
    ) -> *mut c_char;
    fn octrain_abs_max(out: *mut *mut c_void, x: *const c_void) -> *mut c_char;
    fn octrain_deterministic(on: bool) -> *mut c_char;
}

/// Takes the tensor a C++ function has made.
fn made(call: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Result<Tensor, NativeError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: the C++ side returns null or a message from malloc.
    unsafe { check(call(&mut out))? };
    // SAFETY: without an error `out` is a new `at::Tensor` that is ours.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

fn fake_quant_with(
    x: &Tensor,
    steps: &Tensor,
    [qmin, qmax]: [i64; 2],
    per_channel: bool,
    pass_through: bool,
) -> Result<Tensor, NativeError> {
    // SAFETY: both pointers are live tensors; the operator does not keep them.
    made(|out| unsafe {
        octrain_fake_quant(
            out,
            x.as_ptr().cast(),
            steps.as_ptr().cast(),
            qmin,
            qmax,
            per_channel,
            pass_through,
        )
    })
}

/// `clamp(round_half_even(x / step), qmin, qmax) * step` in FP32 with true division; result and gradient in the
/// type of `x` (FP32, BF16 or FP16, any memory order, which is kept). `step` is one FP32 number on the device of
/// `x`. The gradient passes where nothing was clamped, or everywhere with `pass_through`. NaN stays NaN.
pub fn fake_quant(
    x: &Tensor,
    step: &Tensor,
    qmin: i64,
    qmax: i64,
    pass_through: bool,
) -> Result<Tensor, NativeError> {
    fake_quant_with(x, step, [qmin, qmax], false, pass_through)
}

/// [`fake_quant`] with one step for each index of the first dimension: `steps` is `[x.size(0)]`.
pub fn fake_quant_per_channel(
    x: &Tensor,
    steps: &Tensor,
    qmin: i64,
    qmax: i64,
    pass_through: bool,
) -> Result<Tensor, NativeError> {
    fake_quant_with(x, steps, [qmin, qmax], true, pass_through)
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

#[cfg(test)]
mod tests;
