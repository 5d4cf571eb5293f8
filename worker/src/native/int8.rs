//! Products of INT8 codes on the CPU: convolutions and linear layers whose forward is computed on whole numbers.

use super::{NativeError, Taps, check, made};
use crate::graph::Layout;
use crate::quant::scheme::{MIN_SCALE, Scheme, Sign};
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use tch::{Kind, Tensor};

/// The code of 0 among signed codes, which are shifted by as much: oneDNN's operators take bytes without sign.
const ZERO_OF_SIGNED: i64 = 128;

/// Codes of a quantized tensor.
#[derive(Debug)]
pub struct Codes {
    /// Bytes, of the tensor's shape and memory order: the code of its scheme, plus `zero`.
    pub codes: Tensor,
    /// What a code is worth. NaN where the tensor has a NaN, which no code can say: so it is in every product.
    pub scale: f32,
    /// The code of 0.
    pub zero: i64,
}

impl Codes {
    pub(super) fn new(codes: Tensor, scale: f32, scheme: Scheme, others: i64) -> Self {
        let scale = if others > 0 { f32::NAN } else { least(scale) };
        Self { codes, scale, zero: zero(scheme) }
    }
}

/// A scale that can be divided by; one that is NaN stays so.
fn least(scale: f32) -> f32 {
    if scale < MIN_SCALE { MIN_SCALE } else { scale }
}

/// The code of 0 among the bytes of a scheme.
pub(super) fn zero(scheme: Scheme) -> i64 {
    match scheme.sign {
        Sign::Signed => ZERO_OF_SIGNED,
        Sign::Unsigned => 0,
    }
}

/// Codes of a layer's weight.
#[derive(Debug)]
pub struct WeightCodes {
    /// INT8, of the weight's shape, contiguous.
    pub codes: Tensor,
    /// FP32, one for each index of the first dimension; NaN where the weight has one there.
    pub scales: Tensor,
}

/// `OctrainInt8` of `int8.h`.
#[repr(C)]
struct Options {
    stride: [i64; 2],
    padding: [i64; 2],
    dilation: [i64; 2],
    zero: i64,
    scale: f64,
}

impl Options {
    fn new(taps: Taps, zero: i64, scale: f32) -> Self {
        let Taps { stride, padding, dilation } = taps;
        Self { stride, padding, dilation, zero, scale: scale.into() }
    }
}

unsafe extern "C" {
    fn octrain_int8_products() -> bool;
    fn octrain_int8_codes(
        out: *mut *mut c_void,
        others: *mut i64,
        x: *const c_void,
        scale: f32,
        qmin: i64,
        qmax: i64,
        zero: i64,
    ) -> *mut c_char;
    fn octrain_int8_max_pool(
        out: *mut *mut c_void,
        codes: *const c_void,
        kernel: i64,
        stride: i64,
        padding: i64,
    ) -> *mut c_char;
    fn octrain_int8_pack(
        out: *mut *mut c_void,
        codes: *const c_void,
        x: *const c_void,
        options: *const Options,
    ) -> *mut c_char;
    fn octrain_int8_product(
        out: *mut *mut c_void,
        x: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        codes: *const c_void,
        packed: *const c_void,
        scales: *const c_void,
        options: *const Options,
    ) -> *mut c_char;
    fn octrain_weight_on_cpu(
        out: *mut *mut c_void,
        codes: *mut *mut c_void,
        scales: *mut *mut c_void,
        w: *const c_void,
        kind: i32,
        channels_last: i32,
        qmin: i64,
        qmax: i64,
        min_scale: f32,
    ) -> *mut c_char;
}

/// Whether products of 8-bit codes are exact on this CPU, by a trial: they are where it has VNNI, and saturate elsewhere.
pub fn int8_products() -> bool {
    // SAFETY: tries once and lets no exception out.
    unsafe { octrain_int8_products() }
}

/// Codes of `x`, on the CPU, in FP32, BF16 or FP16: `clamp(round_half_even(x / scale), qmin, qmax)`, those
/// of which [`super::fake_quant`] makes its value.
pub fn codes(x: &Tensor, scale: f32, scheme: Scheme) -> Result<Codes, NativeError> {
    let mut others = 0;
    let scale = least(scale);
    // SAFETY: `x` is a live tensor, of which the function keeps nothing.
    let codes = made(|out| unsafe {
        let (qmin, qmax) = (scheme.qmin(), scheme.qmax());
        octrain_int8_codes(out, &raw mut others, x.as_ptr().cast(), scale, qmin, qmax, zero(scheme))
    })?;
    Ok(Codes::new(codes, scale, scheme, others))
}

/// The largest code of each window of `[kernel, stride, padding]` pixels a side, of codes of images `[N, C, H, W]`; channels-last.
///
/// # Errors
/// For padding of more than half of a window, and images smaller than one.
pub fn max_pool_of_codes(codes: &Tensor, [kernel, stride, padding]: [i64; 3]) -> Result<Tensor, NativeError> {
    // SAFETY: `codes` is a live tensor, of which the function keeps nothing.
    made(|out| unsafe { octrain_int8_max_pool(out, codes.as_ptr().cast(), kernel, stride, padding) })
}

/// A layer's weight `[out, ...]`, FP32, contiguous, on the CPU, as a step uses it: fake-quantized with one scale for each index of
/// the first dimension (`weight_scales`), of the type `kind`, in the memory order of the graph; with `encoded` its codes, too.
pub fn weight_on_cpu(
    w: &Tensor,
    scheme: Scheme,
    kind: Kind,
    layout: Layout,
    encoded: bool,
) -> Result<(Tensor, Option<WeightCodes>), NativeError> {
    let kind = super::gpu::kind_of_weight(kind)?;
    let (mut codes, mut scales): (*mut c_void, *mut c_void) = (null_mut(), null_mut());
    let wanted = |p: *mut *mut c_void| if encoded { p } else { null_mut() };
    let (into_codes, into_scales) = (wanted(&raw mut codes), wanted(&raw mut scales));
    let (channels_last, w) = ((layout == Layout::Nhwc).into(), w.as_ptr().cast());
    // SAFETY: `w` is a live tensor, of which the function keeps nothing; the others are null or places for pointers.
    let y = made(|out| unsafe {
        let (qmin, qmax) = (scheme.qmin(), scheme.qmax());
        octrain_weight_on_cpu(out, into_codes, into_scales, w, kind, channels_last, qmin, qmax, MIN_SCALE)
    })?;
    // SAFETY: where they are not null they are new tensors that are ours.
    let of = |p: *mut c_void| unsafe { Tensor::from_ptr(p.cast()) };
    let made = encoded.then(|| WeightCodes { codes: of(codes), scales: of(scales) });
    Ok((y, made))
}

/// A weight's codes as [`int8_product`] wants them, for inputs of the shape of `x` and codes of 0 at `zero`.
pub fn int8_pack(weight: &WeightCodes, x: &Tensor, taps: Taps, zero: i64) -> Result<Tensor, NativeError> {
    let options = Options::new(taps, zero, 1.0);
    // SAFETY: all pointers are live; the function keeps none of them.
    made(|out| unsafe {
        octrain_int8_pack(out, weight.codes.as_ptr().cast(), x.as_ptr().cast(), &raw const options)
    })
}

/// What a product of codes is made of.
pub struct Int8Product<'a> {
    /// The input as its codes stand for it, which backward reads: `[N, C, H, W]` for a convolution, `[..., C]` for a linear layer.
    pub x: &'a Tensor,
    /// The weight as its codes stand for it, which backward reads: `[O, C, KH, KW]` or `[O, C]`.
    pub weight: &'a Tensor,
    /// Added to the sum, `[O]`.
    pub bias: Option<&'a Tensor>,
    /// Those of `x`.
    pub codes: &'a Codes,
    /// Those of the weight, by [`int8_pack`].
    pub packed: &'a Tensor,
    /// Of the weight's codes.
    pub scales: &'a Tensor,
    /// Of a convolution.
    pub taps: Taps,
}

/// A convolution without groups, or a linear layer, of codes: their products are added up as whole numbers, exactly, then scaled and
/// biased in FP32 and rounded to the type of `x` once; the same on any number of threads. Gradients are those of the product of `x`
/// and `weight`. It cannot be differentiated twice: a backward that keeps its own graph (`create_graph`) is an error.
pub fn int8_product(of: &Int8Product) -> Result<Tensor, NativeError> {
    let options = Options::new(of.taps, of.codes.zero, of.codes.scale);
    let mut y = null_mut();
    // SAFETY: all pointers are live tensors, or null; without an error `y` is a new `at::Tensor` that is ours.
    unsafe {
        check(octrain_int8_product(
            &mut y,
            of.x.as_ptr().cast(),
            of.weight.as_ptr().cast(),
            of.bias.map_or(null(), |b| b.as_ptr().cast()),
            of.codes.codes.as_ptr().cast(),
            of.packed.as_ptr().cast(),
            of.scales.as_ptr().cast(),
            &raw const options,
        ))?;
        Ok(Tensor::from_ptr(y.cast()))
    }
}
