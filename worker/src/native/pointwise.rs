//! Normalisation, sum, activation and fake quantization of each element as one operator, for channels-last images.

use super::{Codes, NativeError, int8, made};
use crate::quant::scheme::{MIN_SCALE, Scheme};
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use tch::Tensor;

/// Batch normalisation, `(x - mean) / sqrt(var + eps) * gamma + beta`; all tensors are FP32, `[C]`, contiguous.
pub struct Norm<'a> {
    /// Trainable factor.
    pub gamma: &'a Tensor,
    /// Trainable term.
    pub beta: &'a Tensor,
    /// Running mean; with `batch` it is not read, and gets the batch's.
    pub mean: &'a Tensor,
    /// Running variance; with `batch` it is not read, and gets the batch's unbiased one.
    pub var: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
    /// Whether the statistics are the batch's own.
    pub batch: bool,
}

/// `min(max(x, low), high)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// The least value.
    pub low: f32,
    /// The largest.
    pub high: f32,
    /// Whether the gradient is 0 at the bounds too, not beyond them alone.
    pub strict: bool,
}

/// Fake quantization with one scale.
pub struct Rounding<'a> {
    /// FP32, one element.
    pub scale: &'a Tensor,
    /// Range of the codes.
    pub scheme: Scheme,
    /// Whether the gradient passes where a code is clamped too.
    pub unclipped: bool,
}

/// What is done to each element, in this order; what is `None` is left out.
#[derive(Default)]
pub struct Pointwise<'a> {
    /// Normalisation.
    pub norm: Option<Norm<'a>>,
    /// What is added, of the shape and type of `x`.
    pub residual: Option<&'a Tensor>,
    /// Activation.
    pub cut: Option<Cut>,
    /// Quantization.
    pub rounding: Option<Rounding<'a>>,
    /// Raised by what the value behind the normalisation is: `[absmax over finite values, count of others]`, FP32, contiguous.
    pub normed: Option<&'a Tensor>,
    /// The same of the value before the quantization.
    pub last: Option<&'a Tensor>,
}

/// `OctrainPointwise` of `pointwise.h`.
#[repr(C)]
struct Options {
    statistics: i32,
    eps: f32,
    cuts: i32,
    low: f32,
    high: f32,
    strict: i32,
    quantizes: i32,
    unclipped: i32,
    qmin: i64,
    qmax: i64,
    min_scale: f32,
    zero: f32,
    emulated: i32,
}

unsafe extern "C" {
    fn octrain_pointwise(
        out: *mut *mut c_void,
        second: *mut *mut c_void,
        codes: *mut *mut c_void,
        others: *mut i64,
        x: *const c_void,
        residual: *const c_void,
        gamma: *const c_void,
        beta: *const c_void,
        mean: *const c_void,
        var: *const c_void,
        scale: *const c_void,
        normed: *const c_void,
        last: *const c_void,
        options: *const Options,
    ) -> *mut c_char;
}

/// Runs all of it on `x` `[N, C, H, W]`, FP32, BF16 or FP16, on the CPU or a GPU; the result is of its shape and type, channels
/// last. It computes in FP32 and rounds to the type of `x` once. Results and gradients are the same on any number of threads,
/// with every instruction set, and on every GPU. It cannot be differentiated twice: a backward that keeps its own graph
/// (`create_graph`) is an error.
pub fn pointwise(x: &Tensor, of: &Pointwise) -> Result<Tensor, NativeError> {
    run(x, of, By::default()).map(|made| made.y)
}

/// The same for two readers: the result twice, in the same memory. So the gradients that they give come apart, and the operator
/// adds them where it reads them, if it normalises and they are channels-last: in FP32, rounded to their type, which are the bits of
/// autograd's sum in a pass of its own.
pub fn pointwise_for_two(x: &Tensor, of: &Pointwise) -> Result<[Tensor; 2], NativeError> {
    let Made { y, second, .. } = run(x, of, By { twice: true, ..By::default() })?;
    // Without gradients nothing has to come apart.
    let second = second.unwrap_or_else(|| y.shallow_clone());
    Ok([y, second])
}

/// The same with the codes of the quantizer at its end, on the CPU: the result, for a second reader (`twice`) once more, and the
/// codes.
pub fn pointwise_with_codes(
    x: &Tensor,
    of: &Pointwise,
    twice: bool,
) -> Result<(Tensor, Option<Tensor>, Codes), NativeError> {
    let Some(rounding) = &of.rounding else {
        return Err(NativeError("a chain without a quantizer has no codes".into()));
    };
    let Made { y, second, codes } = run(x, of, By { twice, encodes: true, ..By::default() })?;
    let second = twice.then(|| second.unwrap_or_else(|| y.shallow_clone()));
    let (codes, others) = codes.expect("wanted");
    let scale = rounding.scale.f_double_value(&[0]).map_err(|e| NativeError(e.to_string()))? as f32;
    Ok((y, second, Codes::new(codes, scale, rounding.scheme, others)))
}

/// How an operator runs.
#[derive(Default)]
pub(super) struct By {
    /// Whether the result is wanted twice.
    pub twice: bool,
    /// By the kernels of GPUs on the CPU, for which a test has a launcher.
    pub emulated: bool,
    /// Whether the quantizer's codes are wanted.
    pub encodes: bool,
}

/// What an operator makes.
pub(super) struct Made {
    pub y: Tensor,
    /// The same for a second reader, where it was wanted and there are gradients.
    pub second: Option<Tensor>,
    /// The quantizer's codes, where they were wanted, and how many are of NaN.
    codes: Option<(Tensor, i64)>,
}

pub(super) fn run(x: &Tensor, of: &Pointwise, by: By) -> Result<Made, NativeError> {
    let options = Options {
        statistics: of.norm.as_ref().map_or(0, |n| if n.batch { 2 } else { 1 }),
        eps: of.norm.as_ref().map_or(0.0, |n| n.eps as f32),
        cuts: of.cut.is_some().into(),
        low: of.cut.map_or(0.0, |c| c.low),
        high: of.cut.map_or(0.0, |c| c.high),
        strict: of.cut.is_some_and(|c| c.strict).into(),
        quantizes: of.rounding.is_some().into(),
        unclipped: of.rounding.as_ref().is_some_and(|r| r.unclipped).into(),
        qmin: of.rounding.as_ref().map_or(0, |r| r.scheme.qmin()),
        qmax: of.rounding.as_ref().map_or(0, |r| r.scheme.qmax()),
        min_scale: MIN_SCALE,
        zero: of.rounding.as_ref().map_or(0.0, |r| int8::zero(r.scheme) as f32),
        emulated: by.emulated.into(),
    };
    let pointer = |t: Option<&Tensor>| t.map_or(null(), |t| t.as_ptr().cast());
    let of_norm = |pick: fn(&Norm) -> *const c_void| of.norm.as_ref().map_or(null(), pick);
    let mut second: *mut c_void = null_mut();
    let into: *mut *mut c_void = if by.twice { &raw mut second } else { null_mut() };
    let (mut codes, mut others): (*mut c_void, i64) = (null_mut(), 0);
    let encoded: *mut *mut c_void = if by.encodes { &raw mut codes } else { null_mut() };
    // SAFETY: all pointers are live tensors or null, as the options say; the operator keeps none of them.
    let y = made(|y| unsafe {
        octrain_pointwise(
            y,
            into,
            encoded,
            &raw mut others,
            x.as_ptr().cast(),
            pointer(of.residual),
            of_norm(|n| n.gamma.as_ptr().cast()),
            of_norm(|n| n.beta.as_ptr().cast()),
            of_norm(|n| n.mean.as_ptr().cast()),
            of_norm(|n| n.var.as_ptr().cast()),
            pointer(of.rounding.as_ref().map(|r| r.scale)),
            pointer(of.normed),
            pointer(of.last),
            &raw const options,
        )
    })?;
    // SAFETY: where it is not null it is a new `at::Tensor` that is ours.
    let taken = |p: *mut c_void| (!p.is_null()).then(|| unsafe { Tensor::from_ptr(p.cast()) });
    Ok(Made { y, second: taken(second), codes: taken(codes).map(|codes| (codes, others)) })
}
