//! The strategy of a training: what it computes in and whether it is quantization-aware. Everything else about how a
//! graph is rewritten and run follows from it.

mod averaging;
mod choice;
mod qat;
mod quantization;
mod rank;
mod settings;

pub use averaging::Averaging;
pub(crate) use choice::choice;
pub use choice::{
    Amp, Device, DeviceChoice, Layout, Observer, Purpose, ReduceType, Target, TestBackend, UnknownChoice,
};
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

    /// What a file is made by: FP32 arithmetic, whatever the precision of the training, and the recipe with the placement
    /// rules of `target`, whatever runtime was trained for; without a target, floating point. None where a target is wanted
    /// and there is no recipe, so that nothing has ranges.
    pub fn deployed(&self, target: Option<Target>) -> Option<Self> {
        let qat = match target {
            None => None,
            Some(target) => Some(Qat { target, ..self.qat.clone()? }),
        };
        Some(Self { amp: Amp::Off, qat, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_in_fp32_by_the_recipe_for_its_own_runtime_or_without_one() {
        let qat = Qat { target: Target::Tensorrt, weight_bits: 7, ..Qat::default() };
        let float = Strategy { amp: Amp::Bf16, layout: Layout::Nchw, qat: None };
        let trained = Strategy { qat: Some(qat.clone()), ..float.clone() };
        for &target in Target::ALL {
            let want = Qat { target, ..qat.clone() };
            let deployed = trained.deployed(Some(target)).unwrap();
            assert_eq!(deployed, Strategy { amp: Amp::Off, qat: Some(want), ..trained.clone() });
            assert_eq!(float.deployed(Some(target)), None);
        }
        let plain = Strategy { amp: Amp::Off, ..float.clone() };
        assert_eq!((trained.deployed(None), float.deployed(None)), (Some(plain.clone()), Some(plain)));
    }
}
