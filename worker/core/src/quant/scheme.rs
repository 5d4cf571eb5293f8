//! The single source of quantized numerics: train, eval and export all read code ranges and steps here.
//!
//! Weights are symmetric INT8 per output channel, activations symmetric INT8 per tensor, zero point 0, codes
//! in [-127, 127] (or [0, 127] for a tensor that is never negative). `step = absmax / 127`, in FP32, whatever
//! the tensor's own type.

use serde::{Deserialize, Serialize};

/// Largest code of either kind.
pub const QMAX: i64 = 127;

/// Largest code of weights of `bits` bits: 127 or 63. Codes are symmetric, from minus it.
pub fn weight_qmax(bits: u32) -> i64 {
    (1 << (bits - 1)) - 1
}

/// Smallest step ever used: keeps `1 / step` and `127 * step` finite and normal in FP32, so an all-zero or
/// denormal range still quantizes to finite values.
pub const MIN_STEP: f32 = 1.0e-30;

/// Sign of a quantized activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// Codes in [-127, 127].
    Signed,
    /// Codes in [0, 127]: the tensor is never negative (it comes out of a ReLU).
    Unsigned,
}

impl Sign {
    /// Smallest code.
    pub fn qmin(self) -> i64 {
        match self {
            Sign::Signed => -QMAX,
            Sign::Unsigned => 0,
        }
    }
}

/// The step of a range: `absmax / 127`, never below [`MIN_STEP`]. `absmax` must be finite and not negative;
/// anything else is a caller's error and is answered with `None`.
pub fn step_of(absmax: f32) -> Option<f32> {
    step_for(absmax, QMAX)
}

/// [`step_of`] for codes up to `qmax`.
pub fn step_for(absmax: f32, qmax: i64) -> Option<f32> {
    (absmax.is_finite() && absmax >= 0.0).then(|| (absmax / qmax as f32).max(MIN_STEP))
}

/// LSQ's factor on the gradient of a learned step (Esser et al., arXiv 1902.08153): `1 / sqrt(values * 127)`.
pub fn learned_gradient_scale(values: usize) -> f64 {
    1.0 / (values.max(1) as f64 * QMAX as f64).sqrt()
}

/// Code of one value: `clamp(round_half_even(x / step), qmin, 127)`.
pub fn code(x: f32, step: f32, qmin: i64) -> i64 {
    code_within(x, step, [qmin, QMAX])
}

/// [`code`] in the range `[qmin, qmax]`.
pub fn code_within(x: f32, step: f32, [qmin, qmax]: [i64; 2]) -> i64 {
    let q = (x / step).round_ties_even();
    q.clamp(qmin as f32, qmax as f32) as i64
}

/// Code and unit of a bias that is added to integer sums: `round_half_even(bias / unit)` with the unit of the sums,
/// input step times weight scale, in FP32. None where the code is beyond 2^30 and the weights' scale must be raised.
pub fn bias_code(bias: f32, input: f32, weight: f32) -> Option<(i32, f32)> {
    let unit = (f64::from(input) * f64::from(weight)) as f32;
    let code = (f64::from(bias) / f64::from(unit)).round_ties_even();
    (code.abs() <= f64::from(1 << 30)).then_some((code as i32, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_finite_and_positive_for_every_legal_range() {
        for absmax in [0.0, f32::from_bits(1), 1e-38, 1e-7, 1.0, 65504.0, f32::MAX] {
            let s = step_of(absmax).unwrap();
            assert!(s.is_finite() && s > 0.0 && (1.0 / s).is_finite(), "{absmax} gave {s}");
        }
        assert_eq!(step_of(f32::NAN), None);
        assert_eq!(step_of(f32::INFINITY), None);
        assert_eq!(step_of(-1.0), None);
    }

    #[test]
    fn biases_are_codes_of_the_sums() {
        assert_eq!(bias_code(0.26, 0.5, 0.25), Some((2, 0.125)));
        assert_eq!(bias_code(-0.3125, 0.5, 0.25), Some((-2, 0.125)));
        assert_eq!(bias_code(1.0, 1e-20, 1e-20), None);
        assert_eq!(bias_code(1.0, MIN_STEP, MIN_STEP), None);
    }

    #[test]
    fn the_gradient_scale_is_the_papers() {
        assert!((learned_gradient_scale(100) - 1.0 / (100.0f64 * 127.0).sqrt()).abs() < 1e-15);
        assert!(learned_gradient_scale(0).is_finite());
    }

    #[test]
    fn rounding_is_half_to_even_and_saturates() {
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(|x| code(x, 1.0, -127)), [0, 2, 2, 0, -2]);
        assert_eq!([1e9, -1e9].map(|x| code(x, 1.0, -127)), [127, -127]);
        assert_eq!(code(-3.0, 1.0, 0), 0);
    }
}
