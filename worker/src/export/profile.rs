//! For whom a file is written.

use crate::quant::scheme::Sign;
use crate::strategy::Target;

/// The profile of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", value(rename_all = "lowercase"))]
pub enum Profile {
    /// Floating point, for any runtime.
    Fp32,
    /// 8-bit activations (post-ReLU unsigned, others signed), float bias.
    Openvino,
    /// Unsigned 8-bit activations (post-ReLU with zero point 0, others with 128), INT32 bias.
    Onnxruntime,
    /// Signed 8-bit activations, float bias. In FP16 for TensorRT 10 and 11, whose networks are strongly typed; with
    /// `--float-type fp32` for 8.6 to 10, which choose types themselves.
    Tensorrt,
}

/// A zero point of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroPoint {
    /// 0, of signed codes.
    Signed,
    /// This one, of unsigned codes.
    Unsigned(u8),
}

impl Profile {
    /// The placement rules it follows; none for floating point.
    pub fn target(self) -> Option<Target> {
        match self {
            Profile::Fp32 => None,
            Profile::Openvino => Some(Target::Openvino),
            Profile::Onnxruntime => Some(Target::Onnxruntime),
            Profile::Tensorrt => Some(Target::Tensorrt),
        }
    }

    /// Whether every operator wants integer neighbours: unsigned codes, INT32 bias, Q/DQ behind operators that only
    /// hand values on.
    pub fn integer_neighbours(self) -> bool {
        self.target().is_some_and(Target::integer_neighbours)
    }

    /// The zero point of activations, and with it the type of their codes.
    ///
    /// OpenVINO computes convolutions of unsigned codes and gives those of a signed tensor the zero point 128, which every
    /// convolution that reads it has to take off again. TensorRT has signed codes alone.
    pub(super) fn zero_point(self, sign: Sign) -> ZeroPoint {
        match (self, sign) {
            (Profile::Onnxruntime | Profile::Openvino, Sign::Unsigned) => ZeroPoint::Unsigned(0),
            (Profile::Onnxruntime, Sign::Signed) => ZeroPoint::Unsigned(128),
            (Profile::Openvino, Sign::Signed) | (Profile::Tensorrt | Profile::Fp32, _) => ZeroPoint::Signed,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        self.target().map_or("fp32", Target::name)
    }
}
