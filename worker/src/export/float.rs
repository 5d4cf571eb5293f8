//! The floating-point type of a file, and the scales that FP16 can hold.
//!
//! In an FP16 file weights, biases and values between operators are FP16; input and logits stay FP32. Codes are those of
//! training as long as scales are: `openvino` files keep every Q/DQ pair in FP32 between casts (its CPU plugin fuses
//! them away and runs the same INT8 kernels), so no code changes for a scale's sake. `tensorrt` files carry FP16 scales,
//! which strongly typed networks need (a pair's values have the type of its scale): a scale moves by 2^-11 of itself at most,
//! which is 0.062 of a code at code 127. A scale that FP16 would make zero, subnormal or infinite keeps its pair in FP32
//! between casts. BF16 is not offered: its scales would move codes by a quarter.

use super::{ExportError, Profile};
use half::f16;

/// Type of the floating-point values of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "cli", value(rename_all = "lowercase"))]
pub enum FloatType {
    /// IEEE single.
    #[default]
    Fp32,
    /// IEEE half; input and logits stay FP32.
    Fp16,
}

/// First opset whose QuantizeLinear takes FP16.
const FP16_SCALES: i64 = 19;

impl FloatType {
    /// That of a file of `profile` where nobody says: FP16 for TensorRT, which from version 11 on chooses no type itself, FP32
    /// for the others.
    pub fn of(profile: Profile) -> Self {
        match profile {
            Profile::Tensorrt => FloatType::Fp16,
            Profile::Fp32 | Profile::Openvino | Profile::Onnxruntime => FloatType::Fp32,
        }
    }

    /// The opset of a file where nobody says: the first that can have it.
    pub fn opset(self, profile: Profile) -> i64 {
        match (self, profile) {
            (FloatType::Fp16, Profile::Tensorrt) => FP16_SCALES,
            _ => 13,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FloatType::Fp32 => "fp32",
            FloatType::Fp16 => "fp16",
        }
    }

    /// Whether files of `profile` and `opset` can have this type.
    pub fn check(self, profile: Profile, opset: i64) -> Result<(), ExportError> {
        match (self, profile) {
            (FloatType::Fp16, Profile::Onnxruntime) => Err(ExportError::FloatType(
                "fp16 is not for profile onnxruntime: its CPU kernels fuse nothing beside FP16 values, so all layers \
                 would run in floating point; use fp32 (the INT8 layers are the same), or profile openvino"
                    .into(),
            )),
            (FloatType::Fp16, Profile::Tensorrt) if opset < FP16_SCALES => Err(ExportError::FloatType(format!(
                "fp16 with profile tensorrt wants FP16 scales, which opset {opset} does not have; use opset \
                 {FP16_SCALES} or more, or fp32, from which TensorRT makes FP16 itself up to version 10"
            ))),
            _ => Ok(()),
        }
    }

    /// Whether Q/DQ pairs with these scales have FP16 scales.
    pub(super) fn half_scales(self, profile: Profile, scales: &[f32]) -> bool {
        self == FloatType::Fp16
            && profile == Profile::Tensorrt
            && scales.iter().all(|&s| f16::from_f32(s).is_normal())
    }
}

/// Values as FP16; one that FP16 cannot hold is an error that names the tensor.
pub(super) fn halves(name: &str, values: &[f32]) -> Result<Vec<u8>, ExportError> {
    let mut bytes = Vec::with_capacity(2 * values.len());
    for &value in values {
        let half = f16::from_f32(value);
        if !half.is_finite() {
            return Err(ExportError::FloatType(format!(
                "`{name}` holds {value}, beyond the 65504 of FP16; use fp32"
            )));
        }
        bytes.extend(half.to_le_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scales_that_fp16_holds_as_normal_numbers_become_fp16() {
        let of = |scales: &[f32]| FloatType::Fp16.half_scales(Profile::Tensorrt, scales);
        assert!(of(&[0.02, 6.2e-5]));
        for bad in [1e-7 / 127.0, 6.0e-5, 0.0, 1e-30, 7e4] {
            assert!(!of(&[0.02, bad]), "{bad}");
        }
        assert!(!FloatType::Fp16.half_scales(Profile::Openvino, &[0.02]));
        assert!(!FloatType::Fp32.half_scales(Profile::Tensorrt, &[0.02]));
    }

    #[test]
    fn an_fp16_scale_moves_no_code_by_more_than_a_sixteenth() {
        for i in 0..1000 {
            let scale = 1e-4 * 1.013f32.powi(i % 700);
            let moved = 127.0 * (f16::from_f32(scale).to_f32() / scale - 1.0).abs();
            assert!(moved <= 127.0 / 2048.0, "{scale}: {moved}");
        }
    }

    #[test]
    fn what_cannot_be_written_says_what_to_change() {
        let said = |p, opset| FloatType::Fp16.check(p, opset).unwrap_err().to_string();
        assert!(said(Profile::Onnxruntime, 21).contains("use fp32"));
        assert!(said(Profile::Tensorrt, 13).contains("opset 19"));
        for (profile, opset) in [(Profile::Tensorrt, 19), (Profile::Openvino, 13), (Profile::Fp32, 13)] {
            FloatType::Fp16.check(profile, opset).unwrap();
        }
        for profile in [Profile::Tensorrt, Profile::Openvino, Profile::Onnxruntime, Profile::Fp32] {
            let float_type = FloatType::of(profile);
            assert_eq!(float_type == FloatType::Fp16, profile == Profile::Tensorrt);
            float_type.check(profile, float_type.opset(profile)).unwrap();
        }
        assert!(halves("fc.bias", &[1.0, 7e4]).unwrap_err().to_string().contains("`fc.bias` holds 70000"));
        assert_eq!(halves("b", &[1.0, -2.0]).unwrap(), [0x00, 0x3c, 0x00, 0xc0]);
    }
}
