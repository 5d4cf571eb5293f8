//! The strategy of a training: what it computes in and whether it is quantization-aware. Everything else about how a
//! graph is rewritten and run follows from it.

mod choice;
mod qat;
mod quantization;
mod rank;
mod settings;

pub(crate) use choice::choice;
pub use choice::{Amp, Device, DeviceChoice, Layout, Observer, Purpose, Target, TestBackend, UnknownChoice};
pub use qat::{Distillation, Freeze, Phase, Qat, QatError};
pub use quantization::QuantizationSettings;
pub use rank::Rank;
pub use settings::StrategySettings;

use serde::{Deserialize, Serialize};

/// How a network is trained, besides its update rule and its data. [`Strategy::default`] is FP32, channels last, without
/// quantization.
///
/// Written, it has the keys `amp`, `layout` and `qat`, which is null or the recipe; a key that is missing has its default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Strategy {
    /// The type in which convolutions and matrix products compute.
    pub amp: Amp,
    /// Memory order of four-dimensional values.
    pub layout: Layout,
    /// Quantization-aware training and its recipe. This field is the only switch: passes, observers and schedules follow
    /// from it.
    pub qat: Option<Qat>,
}

impl Strategy {
    /// The same strategy in floating point: what a teacher and a control run have.
    pub fn without_qat(&self) -> Self {
        Self { qat: None, ..self.clone() }
    }
}
