//! The single source of quantized numerics: training, evaluation and export all read code ranges and scales here.
//!
//! A [`Scheme`] is a value that quantizers and layers of a graph carry, each its own. All are symmetric with zero point 0:
//! signed codes of b bits are in [-(2^(b-1) - 1), 2^(b-1) - 1], those of a tensor that is never negative in [0, 2^b - 1], and
//! `scale = absmax / qmax` in FP32, whatever the tensor's own type. The recipe's are [`Scheme::weight`] (8 or 7 bits per
//! output channel) and [`Scheme::activation`] (8 bits per tensor, unsigned ones 7 in a [reduced range](Scheme::reduced)).

use serde::{Deserialize, Serialize};

/// Smallest scale ever used: keeps `1 / scale` and `127 * scale` finite and normal in FP32, so an all-zero or
/// denormal range still quantizes to finite values.
pub const MIN_SCALE: f32 = 1.0e-30;

/// How a tensor is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scheme {
    /// Bits of a code, that of its sign included, 2 to 8.
    pub bits: u32,
    /// Whether codes can be negative.
    pub sign: Sign,
    /// What shares a scale.
    pub granularity: Granularity,
}

/// Sign of the codes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// Codes from minus the largest.
    Signed,
    /// Codes from 0: the tensor is never negative (it comes out of a ReLU).
    Unsigned,
}

/// What shares a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// The whole tensor.
    PerTensor,
    /// What has one index of this dimension, counted without the batch.
    PerChannel(usize),
}

/// A scheme whose numerics Octrain does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} are quantized {wanted}, not {got}")]
pub struct SchemeError {
    /// Weights or activations.
    what: &'static str,
    /// What they can have.
    wanted: &'static str,
    /// What was asked for.
    got: Scheme,
}

impl Scheme {
    /// Of weights: signed codes of `bits` bits, a scale per output channel (dimension 0).
    pub const fn weight(bits: u32) -> Self {
        Self { bits, sign: Sign::Signed, granularity: Granularity::PerChannel(0) }
    }

    /// Of activations: codes of 8 bits, one scale.
    pub const fn activation(sign: Sign) -> Self {
        Self { bits: 8, sign, granularity: Granularity::PerTensor }
    }

    /// The same within a reduced range: unsigned codes lose a bit and are in [0, 127], which a type of signed codes holds,
    /// too. Signed ones stay as they are.
    pub const fn reduced(self) -> Self {
        match self.sign {
            Sign::Signed => self,
            Sign::Unsigned => Self { bits: self.bits - 1, ..self },
        }
    }

    /// Whether weights can have it.
    pub fn check_weight(self) -> Result<(), SchemeError> {
        let fits = (2..=8).contains(&self.bits) && self == Self::weight(self.bits);
        let wanted = "with 2 to 8 bits, signed, per channel of dimension 0";
        if fits { Ok(()) } else { Err(SchemeError { what: "weights", wanted, got: self }) }
    }

    /// Whether activations can have it.
    pub fn check_activation(self) -> Result<(), SchemeError> {
        let whole = Self::activation(self.sign);
        let fits = self == whole || self == whole.reduced();
        let wanted = "with 8 bits per tensor, unsigned ones with 8 or 7";
        if fits { Ok(()) } else { Err(SchemeError { what: "activations", wanted, got: self }) }
    }

    /// Largest code: 127 of 8 signed bits, 255 of 8 unsigned ones.
    pub const fn qmax(self) -> i64 {
        match self.sign {
            Sign::Signed => (1 << (self.bits - 1)) - 1,
            Sign::Unsigned => (1 << self.bits) - 1,
        }
    }

    /// Smallest code.
    pub const fn qmin(self) -> i64 {
        match self.sign {
            Sign::Signed => -self.qmax(),
            Sign::Unsigned => 0,
        }
    }

    /// The scale of a range: `absmax / qmax`, never below [`MIN_SCALE`]. `absmax` must be finite and not negative; anything
    /// else is a caller's error and is answered with `None`.
    pub fn scale(self, absmax: f32) -> Option<f32> {
        (absmax.is_finite() && absmax >= 0.0).then(|| (absmax / self.qmax() as f32).max(MIN_SCALE))
    }

    /// Code of one value: `clamp(round_half_even(x / scale), qmin, qmax)`.
    pub fn code(self, x: f32, scale: f32) -> i64 {
        let q = (x / scale).round_ties_even();
        q.clamp(self.qmin() as f32, self.qmax() as f32) as i64
    }

    /// LSQ's factor on the gradient of a learned scale (Esser et al., arXiv 1902.08153): `1 / sqrt(values * qmax)`.
    pub fn learned_gradient_scale(self, values: usize) -> f64 {
        1.0 / (values.max(1) as f64 * self.qmax() as f64).sqrt()
    }
}

/// E.g. `8 bits, signed, per tensor`.
impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = match self.sign {
            Sign::Signed => "signed",
            Sign::Unsigned => "unsigned",
        };
        match self.granularity {
            Granularity::PerTensor => write!(f, "{} bits, {sign}, per tensor", self.bits),
            Granularity::PerChannel(axis) => {
                write!(f, "{} bits, {sign}, per channel of dimension {axis}", self.bits)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: Scheme = Scheme::activation(Sign::Signed);
    const UNSIGNED: Scheme = Scheme::activation(Sign::Unsigned);

    #[test]
    fn scales_are_finite_and_positive_for_every_legal_range() {
        for scheme in [SIGNED, UNSIGNED, UNSIGNED.reduced(), Scheme::weight(7), Scheme::weight(2)] {
            for absmax in [0.0, f32::from_bits(1), 1e-38, 1e-7, 1.0, 65504.0, f32::MAX] {
                let s = scheme.scale(absmax).unwrap();
                assert!(s.is_finite() && s > 0.0 && (1.0 / s).is_finite(), "{absmax} gave {s}");
            }
            assert_eq!(scheme.scale(f32::NAN), None);
            assert_eq!(scheme.scale(f32::INFINITY), None);
            assert_eq!(scheme.scale(-1.0), None);
        }
        assert_eq!((SIGNED.scale(127.0), Scheme::weight(4).scale(7.0)), (Some(1.0), Some(1.0)));
        assert_eq!((UNSIGNED.scale(255.0), UNSIGNED.reduced().scale(127.0)), (Some(1.0), Some(1.0)));
    }

    #[test]
    fn codes_are_those_of_the_schemes_bits_and_sign() {
        let range = |s: Scheme| (s.qmin(), s.qmax());
        assert_eq!(range(SIGNED), (-127, 127));
        assert_eq!((range(UNSIGNED), range(UNSIGNED.reduced())), ((0, 255), (0, 127)));
        assert_eq!(SIGNED.reduced(), SIGNED);
        assert_eq!(
            [8, 7, 4, 2].map(|b| range(Scheme::weight(b))),
            [(-127, 127), (-63, 63), (-7, 7), (-1, 1)]
        );
        assert_eq!(range(Scheme { bits: 4, ..UNSIGNED }), (0, 15));
    }

    #[test]
    fn what_has_no_numerics_is_refused() {
        for bits in 2..=8 {
            Scheme::weight(bits).check_weight().unwrap();
        }
        for fine in [SIGNED, UNSIGNED, UNSIGNED.reduced()] {
            fine.check_activation().unwrap();
        }
        for bits in [0, 1, 6, 7, 9, 32] {
            assert_eq!(Scheme::weight(bits).check_weight().is_ok(), [6, 7].contains(&bits));
            assert!(Scheme { bits, ..SIGNED }.check_activation().is_err());
            assert_eq!(Scheme { bits, ..UNSIGNED }.check_activation().is_ok(), bits == 7);
        }
        let said = Scheme { granularity: Granularity::PerChannel(1), ..SIGNED }.check_activation();
        assert_eq!(
            said.unwrap_err().to_string(),
            "activations are quantized with 8 bits per tensor, unsigned ones with 8 or 7, not 8 bits, signed, per channel \
             of dimension 1"
        );
        let said = UNSIGNED.check_weight().unwrap_err().to_string();
        assert!(said.contains("not 8 bits, unsigned, per tensor"), "{said}");
        assert!(Scheme { sign: Sign::Unsigned, ..Scheme::weight(8) }.check_weight().is_err());
    }

    #[test]
    fn the_gradient_scale_is_the_papers() {
        let scale = |n| SIGNED.learned_gradient_scale(n);
        assert!((scale(100) - 1.0 / (100.0f64 * 127.0).sqrt()).abs() < 1e-15);
        let unsigned = UNSIGNED.learned_gradient_scale(100);
        assert!((unsigned - 1.0 / (100.0f64 * 255.0).sqrt()).abs() < 1e-15);
        assert!(scale(0).is_finite());
    }

    #[test]
    fn rounding_is_half_to_even_and_saturates() {
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(|x| SIGNED.code(x, 1.0)), [0, 2, 2, 0, -2]);
        assert_eq!([1e9, -1e9].map(|x| SIGNED.code(x, 1.0)), [127, -127]);
        assert_eq!([0.25, 2.0, -40.0].map(|x| SIGNED.code(x, 0.5)), [0, 4, -80]);
        assert_eq!([-3.0, 200.5, 254.5, 255.5, 1e9].map(|x| UNSIGNED.code(x, 1.0)), [0, 200, 254, 255, 255]);
        assert_eq!(UNSIGNED.reduced().code(200.5, 1.0), 127);
        assert_eq!([1e9, -1e9].map(|x| Scheme::weight(4).code(x, 1.0)), [7, -7]);
    }
}
