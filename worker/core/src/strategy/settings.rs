//! The strategy as flat settings: what flags, configuration files and checkpoints hold.

use super::{Amp, Distillation, Freeze, Layout, Observer, Qat, Strategy, Target};
use serde::{Deserialize, Serialize};

/// Settings that a [`Strategy`] is made of, by the names of their flags. A key that is missing is an error, so that no
/// default can differ between those who read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StrategySettings {
    /// Mixed precision.
    pub amp: Amp,
    /// Memory order.
    pub data_layout: Layout,
    /// Quantization-aware training. Off, all that follows says nothing.
    pub qat: bool,
    /// [`Qat::target`].
    pub target: Target,
    /// [`Qat::calibration_images`].
    pub qat_calibration_images: u64,
    /// [`Qat::freeze_observers`], as a part of the steps.
    pub qat_freeze_observers: f64,
    /// [`Qat::freeze_bn`], as a part of the steps.
    pub qat_freeze_bn: f64,
    /// [`Qat::observer_momentum`].
    pub qat_observer_momentum: f64,
    /// [`Qat::pass_through`].
    pub qat_pass_through: bool,
    /// [`Qat::skip`].
    pub qat_skip: Vec<String>,
    /// [`Qat::observer`].
    pub qat_observer: Observer,
    /// [`Qat::percentile`].
    pub qat_percentile: f64,
    /// [`Qat::weight_bits`].
    pub qat_weight_bits: u32,
    /// [`Qat::learn_scales`].
    pub qat_learn_scales: bool,
    /// [`Qat::bn_images`].
    pub qat_bn_images: u64,
    /// Whether there is [`Qat::distillation`].
    pub qat_distill: bool,
    /// [`Distillation::weight`].
    pub qat_distill_weight: f64,
    /// [`Distillation::temperature`].
    pub qat_distill_temperature: f64,
}

impl From<&StrategySettings> for Strategy {
    fn from(s: &StrategySettings) -> Strategy {
        let qat = s.qat.then(|| Qat {
            target: s.target,
            skip: s.qat_skip.clone(),
            weight_bits: s.qat_weight_bits,
            observer: s.qat_observer,
            percentile: s.qat_percentile,
            calibration_images: s.qat_calibration_images,
            observer_momentum: s.qat_observer_momentum,
            learn_scales: s.qat_learn_scales,
            pass_through: s.qat_pass_through,
            freeze_observers: Freeze::Part(s.qat_freeze_observers),
            freeze_bn: Freeze::Part(s.qat_freeze_bn),
            bn_images: s.qat_bn_images,
            distillation: s.qat_distill.then_some(Distillation {
                weight: s.qat_distill_weight,
                temperature: s.qat_distill_temperature,
            }),
        });
        Strategy { amp: s.amp, layout: s.data_layout, qat }
    }
}
