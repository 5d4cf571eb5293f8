//! Operators that have kernels of their own on GPUs alone: elsewhere libtorch's are as fast.

use super::{NativeError, made};
use crate::graph::Layout;
use crate::quant::scheme::{MIN_SCALE, Scheme};
use std::ffi::{c_char, c_void};
use tch::{Kind, Tensor};

unsafe extern "C" {
    fn octrain_max_pool(
        out: *mut *mut c_void,
        x: *const c_void,
        kernel: i64,
        stride: i64,
        padding: i64,
        emulated: i32,
    ) -> *mut c_char;
    fn octrain_weight(
        out: *mut *mut c_void,
        w: *const c_void,
        kind: i32,
        channels_last: i32,
        qmin: i64,
        qmax: i64,
        min_scale: f32,
        emulated: i32,
    ) -> *mut c_char;
}

/// The maximum over windows of `[kernel, stride, padding]` pixels a side, of images `[N, C, H, W]` on a GPU; the result is
/// channels-last. Values and gradients are those of `max_pool2d`, but that gradients are added up in FP32.
///
/// # Errors
/// For windows of more than 16 pixels a side, padding of more than half of one, and images smaller than one.
pub fn max_pool(x: &Tensor, windows: [i64; 3]) -> Result<Tensor, NativeError> {
    max_pool_by(x, windows, false)
}

/// The same; `emulated`: by the kernels on the CPU, for which a test has a launcher.
pub(super) fn max_pool_by(
    x: &Tensor,
    [kernel, stride, padding]: [i64; 3],
    emulated: bool,
) -> Result<Tensor, NativeError> {
    // SAFETY: `x` is a live tensor, of which the operator keeps nothing.
    made(|out| unsafe { octrain_max_pool(out, x.as_ptr().cast(), kernel, stride, padding, emulated.into()) })
}

/// A layer's weight `[out, ...]`, FP32, on a GPU, as a step uses it: fake-quantized with one scale for each index of the first
/// dimension (`weight_scales`), of the type `kind`, in the memory order of the graph.
pub fn weight(w: &Tensor, scheme: Scheme, kind: Kind, layout: Layout) -> Result<Tensor, NativeError> {
    weight_by(w, scheme, kind, layout, false)
}

/// The same; `emulated`: by the kernels on the CPU, for which a test has a launcher.
pub(super) fn weight_by(
    w: &Tensor,
    scheme: Scheme,
    kind: Kind,
    layout: Layout,
    emulated: bool,
) -> Result<Tensor, NativeError> {
    let kind = kind_of_weight(kind)?;
    let (channels_last, range) = (layout == Layout::Nhwc, [scheme.qmin(), scheme.qmax()]);
    let w = w.as_ptr().cast();
    // SAFETY: `w` is a live tensor, of which the operator keeps nothing.
    made(|out| unsafe {
        octrain_weight(out, w, kind, channels_last.into(), range[0], range[1], MIN_SCALE, emulated.into())
    })
}

/// The number of a weight's type in the C++ parts.
pub(super) fn kind_of_weight(kind: Kind) -> Result<i32, NativeError> {
    match kind {
        Kind::Float => Ok(0),
        Kind::BFloat16 => Ok(1),
        Kind::Half => Ok(2),
        other => Err(NativeError(format!("weights are used in FP32, BF16 and FP16, not in {other:?}"))),
    }
}
