//! For whom a file is written.

use crate::strategy::Target;

/// The profile of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", value(rename_all = "lowercase"))]
pub enum Profile {
    /// Floating point, for any runtime.
    Fp32,
    /// Signed 8-bit activations, float bias.
    Openvino,
    /// Unsigned 8-bit activations (post-ReLU with zero point 0, others with 128), INT32 bias.
    Onnxruntime,
    /// Signed 8-bit activations, float bias, opset 13.
    Tensorrt,
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

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        self.target().map_or("fp32", Target::name)
    }
}
