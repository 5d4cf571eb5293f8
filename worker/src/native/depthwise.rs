//! Depthwise convolution of channels-last images on the CPU.

use super::{NativeError, check};
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use tch::Tensor;

/// Where the taps of a kernel lie; pairs are of height and width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taps {
    /// Inputs from one output to the next.
    pub stride: [i64; 2],
    /// Zeros on either side.
    pub padding: [i64; 2],
    /// Inputs from one tap to the next.
    pub dilation: [i64; 2],
}

/// `OctrainDepthwise` of `depthwise.h`; what tensors say is filled in there.
#[repr(C)]
#[derive(Default)]
struct Options {
    channels: i64,
    size: [i64; 2],
    out: [i64; 2],
    kernel: [i64; 2],
    stride: [i64; 2],
    padding: [i64; 2],
    dilation: [i64; 2],
}

unsafe extern "C" {
    fn octrain_depthwise(
        out: *mut *mut c_void,
        x: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        options: *const Options,
    ) -> *mut c_char;
}

/// libtorch's convolution of `x` `[N, C, H, W]` with `weight` `[C, 1, KH, KW]` and `bias` `[C]`, one group a channel, whose
/// gradient by `x` is computed here: in FP32, rounded to the type of `x` once, the same on any number of threads and with every
/// instruction set. All are FP32, BF16 or FP16, on the CPU. It cannot be differentiated twice: a backward that keeps its own
/// graph (`create_graph`) is an error.
pub fn depthwise(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    taps: Taps,
) -> Result<Tensor, NativeError> {
    let Taps { stride, padding, dilation } = taps;
    let options = Options { stride, padding, dilation, ..Options::default() };
    let mut y = null_mut();
    // SAFETY: all pointers are live tensors, or null; without an error `y` is a new `at::Tensor` that is ours.
    unsafe {
        check(octrain_depthwise(
            &mut y,
            x.as_ptr().cast(),
            weight.as_ptr().cast(),
            bias.map_or(null(), |b| b.as_ptr().cast()),
            &raw const options,
        ))?;
        Ok(Tensor::from_ptr(y.cast()))
    }
}
