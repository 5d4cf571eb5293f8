//! Quantization-aware training as flat settings: what flags, configuration files and checkpoints hold.

use super::{Distillation, Freeze, Observer, Qat, Target};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Whether training is quantization-aware, and its recipe, by the names of the flags. A key that is missing is an error,
/// so that no default can differ between those who read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[serde(rename_all = "kebab-case")]
pub struct QuantizationSettings {
    /// Quantization-aware training.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat: bool,
    /// Runtime whose placement rules are trained.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization", value_enum, default_value_t))]
    pub target: Target,
    /// Images for calibration before the first QAT step.
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 512, allow_negative_numbers = true)
    )]
    pub qat_calibration_images: u64,
    /// Part of the steps after which observers freeze (1: never).
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 0.8, allow_hyphen_values = true)
    )]
    pub qat_freeze_observers: f64,
    /// Part of the steps after which BatchNorm statistics freeze (1: never).
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 0.9, allow_hyphen_values = true)
    )]
    pub qat_freeze_bn: f64,
    /// Moving-average momentum of activation ranges: `range = m * range + (1 - m) * new`.
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 0.9, allow_hyphen_values = true)
    )]
    pub qat_observer_momentum: f64,
    /// Let gradients through where values were clipped too (unclipped straight-through estimator).
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat_pass_through: bool,
    /// Nodes left in floating point (names, `*` as wildcard).
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", value_delimiter = ',', value_name = "PATTERNS")
    )]
    pub qat_skip: Vec<String>,
    /// How activation ranges are found and kept.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization", value_enum, default_value_t))]
    pub qat_observer: Observer,
    /// Percent of the absolute values within the range, for `--qat-observer percentile`.
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 99.99, allow_hyphen_values = true)
    )]
    pub qat_percentile: f64,
    /// Bits of weight codes: 8, or 7 for CPUs without VNNI, whose 16-bit sums saturate otherwise.
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 8, allow_negative_numbers = true)
    )]
    pub qat_weight_bits: u32,
    /// Keep codes of activations behind a ReLU within [0, 127] instead of [0, 255]: for CPUs without VNNI, whose 16-bit sums of
    /// their products with 8-bit weights saturate otherwise (so does --qat-weight-bits 7). Always so for `--target tensorrt`,
    /// which has signed codes alone.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat_reduce_range: bool,
    /// Learn activation ranges by gradient (LSQ), from where calibration puts them; observers then rest.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat_learn_scales: bool,
    /// Compute the forward of convolutions and linear layers in training on INT8 codes, on CPUs with VNNI: sums of whole
    /// numbers, as the deployed network has them. Layers with groups, and those whose microbatch is too small to pay for it, stay in
    /// floating point, as do some others: a run says at its start which, and why.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat_int8_forward: bool,
    /// Training images from which BatchNorm's statistics are estimated anew, under quantization, when they freeze
    /// (0: they stay as trained).
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 0, allow_negative_numbers = true)
    )]
    pub qat_bn_images: u64,
    /// Train towards the logits of a teacher, e.g. the floating-point network it starts from, besides the labels.
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub qat_distill: bool,
    /// The teacher: a checkpoint of any network for the same classes and images (none: `from-pretrained-params`).
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Quantization"))]
    pub qat_teacher: Option<PathBuf>,
    /// Part of the loss that follows the teacher, from 0 to 1.
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 0.5, allow_hyphen_values = true)
    )]
    pub qat_distill_weight: f64,
    /// Temperature of teacher and student.
    #[cfg_attr(
        feature = "clap",
        arg(long, help_heading = "Quantization", default_value_t = 4.0, allow_hyphen_values = true)
    )]
    pub qat_distill_temperature: f64,
}

impl Default for QuantizationSettings {
    fn default() -> Self {
        Self {
            qat: false,
            target: Target::Openvino,
            qat_calibration_images: 512,
            qat_freeze_observers: 0.8,
            qat_freeze_bn: 0.9,
            qat_observer_momentum: 0.9,
            qat_pass_through: false,
            qat_skip: Vec::new(),
            qat_observer: Observer::MovingAverage,
            qat_percentile: 99.99,
            qat_weight_bits: 8,
            qat_reduce_range: false,
            qat_learn_scales: false,
            qat_int8_forward: false,
            qat_bn_images: 0,
            qat_distill: false,
            qat_teacher: None,
            qat_distill_weight: 0.5,
            qat_distill_temperature: 4.0,
        }
    }
}

impl QuantizationSettings {
    /// The recipe that these settings make; none where training is not quantization-aware, whatever else they say.
    pub fn recipe(&self) -> Option<Qat> {
        self.qat.then(|| Qat {
            target: self.target,
            skip: self.qat_skip.clone(),
            weight_bits: self.qat_weight_bits,
            reduce_range: self.qat_reduce_range,
            observer: self.qat_observer,
            percentile: self.qat_percentile,
            calibration_images: self.qat_calibration_images,
            observer_momentum: self.qat_observer_momentum,
            learn_scales: self.qat_learn_scales,
            unclipped_straight_through: self.qat_pass_through,
            freeze_observers: Freeze::Part(self.qat_freeze_observers),
            freeze_bn: Freeze::Part(self.qat_freeze_bn),
            bn_images: self.qat_bn_images,
            distillation: self.qat_distill.then_some(Distillation {
                weight: self.qat_distill_weight,
                temperature: self.qat_distill_temperature,
            }),
        })
    }

    /// Changes the settings so that they make `recipe`. Without one, what is set for it stays and says nothing; so does a
    /// [`Freeze::Step`], which settings cannot say, where the teacher is, and what the forward is computed on.
    pub fn set(&mut self, recipe: Option<&Qat>) {
        self.qat = recipe.is_some();
        let Some(qat) = recipe else { return };
        let part = |freeze: Freeze, was: f64| match freeze {
            Freeze::Part(part) => part,
            Freeze::Never => 1.0,
            Freeze::Step(_) => was,
        };
        self.target = qat.target;
        self.qat_skip = qat.skip.clone();
        self.qat_weight_bits = qat.weight_bits;
        self.qat_reduce_range = qat.reduce_range;
        self.qat_observer = qat.observer;
        self.qat_percentile = qat.percentile;
        self.qat_calibration_images = qat.calibration_images;
        self.qat_observer_momentum = qat.observer_momentum;
        self.qat_learn_scales = qat.learn_scales;
        self.qat_pass_through = qat.unclipped_straight_through;
        self.qat_freeze_observers = part(qat.freeze_observers, self.qat_freeze_observers);
        self.qat_freeze_bn = part(qat.freeze_bn, self.qat_freeze_bn);
        self.qat_bn_images = qat.bn_images;
        self.qat_distill = qat.distillation.is_some();
        if let Some(Distillation { weight, temperature }) = qat.distillation {
            (self.qat_distill_weight, self.qat_distill_temperature) = (weight, temperature);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_nobody_gave_make_the_library_s_recipe() {
        let off = QuantizationSettings::default();
        assert_eq!(off.recipe(), None);
        let on = QuantizationSettings { qat: true, ..off };
        assert_eq!(on.recipe(), Some(Qat::default()));
        let taught = QuantizationSettings { qat_distill: true, ..on };
        let distillation = Some(Distillation { weight: 0.5, temperature: 4.0 });
        assert_eq!(taught.recipe(), Some(Qat { distillation, ..Qat::default() }));
    }

    #[test]
    fn settings_that_were_set_to_a_recipe_make_it_again() {
        let mut set = QuantizationSettings {
            qat_skip: vec!["fc".into()],
            qat_freeze_bn: 0.4,
            qat_pass_through: true,
            qat_observer: Observer::Mse,
            qat_learn_scales: true,
            qat_distill: true,
            ..QuantizationSettings::default()
        };
        set.set(None);
        assert_eq!((set.recipe(), set.qat_skip.len()), (None, 1));
        let distillation = Some(Distillation { weight: 0.7, temperature: 2.0 });
        let target = Target::Onnxruntime;
        let other = Qat { distillation, target, weight_bits: 7, reduce_range: true, ..Qat::default() };
        for recipe in [other, Qat { freeze_bn: Freeze::Part(0.6), ..Qat::default() }] {
            set.set(Some(&recipe));
            assert_eq!(set.recipe(), Some(recipe));
        }
        // What settings cannot say.
        let steps = Qat { freeze_observers: Freeze::Never, freeze_bn: Freeze::Step(9), ..Qat::default() };
        set.set(Some(&steps));
        assert_eq!((set.qat_freeze_observers, set.qat_freeze_bn), (1.0, 0.6));
    }
}
