//! Update rules on flat FP32 weights on the CPU, in one pass over them.

use super::{NativeError, check};
use std::ffi::{c_char, c_void};
use std::ops::Range;
use tch::Tensor;

/// Numbers of [`adamw`]; `OctrainAdamW` of `update.cpp`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct AdamWNumbers {
    /// What is kept of a weight before its step: 1 minus the learning rate times its decay.
    pub kept: f32,
    /// Momentum of the first moment.
    pub beta1: f32,
    /// Momentum of the second moment.
    pub beta2: f32,
    /// `1 - beta1`, before either is rounded.
    pub towards: f32,
    /// `1 - beta2`, likewise.
    pub share: f32,
    /// Root of the second moment's correction, `sqrt(1 - beta2^t)`.
    pub root_scale: f32,
    /// Added to the corrected root.
    pub epsilon: f32,
    /// Learning rate over the first moment's correction, `1 - beta1^t`.
    pub rate: f32,
}

unsafe extern "C" {
    fn octrain_sgd(
        weights: *const c_void,
        momentum_buffer: *const c_void,
        gradients: *const c_void,
        offset: i64,
        n: i64,
        decay: f32,
        momentum: f32,
        lr: f32,
        nesterov: bool,
    ) -> *mut c_char;
    fn octrain_adamw(
        weights: *const c_void,
        first: *const c_void,
        second: *const c_void,
        gradients: *const c_void,
        offset: i64,
        n: i64,
        options: *const AdamWNumbers,
    ) -> *mut c_char;
}

/// `d = g + decay * w; v = momentum * v + d; w -= lr * (nesterov ? momentum * v + d : v)` for the elements `piece` of
/// weights, buffer and gradients, all `[n]`, FP32, on the CPU.
pub fn sgd(
    [weights, buffer, gradients]: [&Tensor; 3],
    piece: Range<i64>,
    decay: f64,
    momentum: f64,
    lr: f64,
    nesterov: bool,
) -> Result<(), NativeError> {
    let [w, v, g] = [weights, buffer, gradients].map(|t| t.as_ptr().cast());
    let (n, decay, momentum, lr) = (piece.end - piece.start, decay as f32, momentum as f32, lr as f32);
    // SAFETY: the pointers are live tensors; the C++ side checks type, place and size, and keeps none of them.
    unsafe { check(octrain_sgd(w, v, g, piece.start, n, decay, momentum, lr, nesterov)) }
}

/// `w *= kept; m += (1 - beta1) * (g - m); v = beta2 * v + (1 - beta2) * g^2;
/// w -= rate * m / (sqrt(v) / root_scale + epsilon)`, for weights, moments and gradients as in [`sgd`].
pub fn adamw(
    [weights, first, second, gradients]: [&Tensor; 4],
    piece: Range<i64>,
    numbers: AdamWNumbers,
) -> Result<(), NativeError> {
    let [w, m, v, g] = [weights, first, second, gradients].map(|t| t.as_ptr().cast());
    // SAFETY: as in `sgd`.
    unsafe { check(octrain_adamw(w, m, v, g, piece.start, piece.end - piece.start, &raw const numbers)) }
}
