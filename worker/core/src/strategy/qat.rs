//! The recipe of quantization-aware training, and its schedule: calibrate, train with observers on, freeze observers,
//! freeze BatchNorm's statistics. Pure functions of the step.

use super::{Observer, Target};
use crate::quant::scheme::{Scheme, Sign};
use serde::{Deserialize, Serialize};

/// How a network is trained for INT8. [`Qat::default`] suits a fine-tuning of a few epochs from a trained network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Qat {
    /// The runtime whose placement rules are trained.
    pub target: Target,
    /// Nodes left in floating point, by name; `*` stands for any run of characters.
    pub skip: Vec<String>,
    /// Bits of weight codes: 8, or 7 for CPUs without VNNI, whose 16-bit sums saturate otherwise.
    pub weight_bits: u32,
    /// Codes of activations that are never negative (behind a ReLU) are in [0, 127] instead of [0, 255]. So they always are for
    /// TensorRT, which has signed codes alone. On CPUs without VNNI products with weights of 8 bits saturate otherwise.
    pub reduce_range: bool,
    /// How activation ranges are found and kept.
    pub observer: Observer,
    /// Percent of the absolute values within the range, above 50 and at most 100, for [`Observer::Percentile`].
    pub percentile: f64,
    /// Training images for calibration before the first step, rounded up to whole microbatches. A step that finds ranges
    /// unknown calibrates on its own images, which may be fewer.
    pub calibration_images: u64,
    /// Momentum of ranges, from 0 to below 1: `range = m * range + (1 - m) * observed`.
    pub observer_momentum: f64,
    /// Ranges are learned by gradient (LSQ, Esser et al., arXiv 1902.08153) from where calibration puts them; observers
    /// then rest.
    pub learn_scales: bool,
    /// Gradients pass where values were clipped too: the unclipped straight-through estimator.
    #[serde(alias = "pass-through")]
    pub unclipped_straight_through: bool,
    /// When observers freeze.
    pub freeze_observers: Freeze,
    /// When BatchNorm's statistics freeze.
    pub freeze_bn: Freeze,
    /// Training images from which BatchNorm's statistics are estimated anew when they freeze; 0: they stay as trained.
    pub bn_images: u64,
    /// Part of the loss follows a floating-point teacher.
    pub distillation: Option<Distillation>,
}

/// When a part of the schedule freezes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freeze {
    /// Never.
    Never,
    /// From this step (0-based) on.
    Step(u64),
    /// After this part of all steps, from 0 to 1; a part of 1 is never.
    Part(f64),
}

impl Freeze {
    /// The first frozen step of a training of `total_steps` steps; none: never. A part is rounded up to a whole step; a
    /// part of a length that is not known (0) is never reached, but for a part of 0.
    pub fn step(self, total_steps: u64) -> Option<u64> {
        match self {
            Freeze::Never => None,
            Freeze::Step(step) => Some(step),
            Freeze::Part(part) if part >= 1.0 || (total_steps == 0 && part > 0.0) => None,
            Freeze::Part(part) => Some((part * total_steps as f64).ceil() as u64),
        }
    }
}

/// Knowledge distillation (Hinton et al., arXiv 1503.02531):
/// `loss = (1 - weight) * CE + weight * T^2 * KL(teacher / T, student / T)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Distillation {
    /// The part of the loss that follows the teacher, above 0 and at most 1.
    pub weight: f64,
    /// Temperature T, at least 1.
    pub temperature: f64,
}

/// What a step of quantization-aware training does besides its update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Quantizers observe and move their ranges.
    pub observe: bool,
    /// BatchNorm normalises with batch statistics and moves the running ones.
    pub batch_stats: bool,
}

/// A recipe that cannot be trained.
#[derive(Debug, Clone, PartialEq)]
pub enum QatError {
    /// A number out of its range.
    Range {
        /// The field, e.g. `weight-bits`.
        field: &'static str,
        /// What it was.
        value: f64,
        /// What it must be.
        want: &'static str,
    },
    /// Two parts of which the one leaves nothing for the other to do.
    NoEffect {
        /// The field that would do nothing.
        field: &'static str,
        /// The one that takes its place.
        with: &'static str,
        /// What that one does.
        why: &'static str,
    },
}

impl QatError {
    /// The field that is wrong, e.g. `weight-bits`.
    pub fn field(&self) -> &'static str {
        match self {
            QatError::Range { field, .. } | QatError::NoEffect { field, .. } => field,
        }
    }

    /// The error for people who know a field as `named` says.
    pub fn told(&self, named: impl Fn(&str) -> String) -> String {
        match self {
            QatError::Range { field, value, want } => format!("{} is {value}; it is {want}", named(field)),
            QatError::NoEffect { field, with, why } => {
                format!(
                    "{} has no effect with {}, which {why}: leave one of them out",
                    named(field),
                    named(with)
                )
            }
        }
    }
}

impl std::fmt::Display for QatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.told(|field| format!("qat.{field}")))
    }
}

impl std::error::Error for QatError {}

impl Default for Qat {
    fn default() -> Self {
        Self {
            target: Target::default(),
            skip: Vec::new(),
            weight_bits: 8,
            reduce_range: false,
            observer: Observer::default(),
            percentile: 99.99,
            calibration_images: 512,
            observer_momentum: 0.9,
            learn_scales: false,
            unclipped_straight_through: false,
            freeze_observers: Freeze::Part(0.8),
            freeze_bn: Freeze::Part(0.9),
            bn_images: 0,
            distillation: None,
        }
    }
}

impl Qat {
    /// Whether it can be trained.
    ///
    /// # Errors
    /// The first number out of its range; a part that has no effect beside another.
    pub fn check(&self) -> Result<(), QatError> {
        let part = "a part of the steps, from 0 to 1 (1: never)";
        let of = |freeze| match freeze {
            Freeze::Part(part) => part,
            Freeze::Never | Freeze::Step(_) => 0.0,
        };
        let within = |part: f64| (0.0..=1.0).contains(&part);
        let d = self.distillation.unwrap_or(Distillation { weight: 0.5, temperature: 4.0 });
        let checks: [(&'static str, f64, bool, &'static str); 7] = [
            ("freeze-observers", of(self.freeze_observers), within(of(self.freeze_observers)), part),
            ("freeze-bn", of(self.freeze_bn), within(of(self.freeze_bn)), part),
            (
                "observer-momentum",
                self.observer_momentum,
                (0.0..1.0).contains(&self.observer_momentum),
                "a momentum from 0 to below 1, e.g. 0.9",
            ),
            (
                "percentile",
                self.percentile,
                self.percentile > 50.0 && self.percentile <= 100.0,
                "a percentage above 50 and at most 100, e.g. 99.99",
            ),
            (
                "weight-bits",
                f64::from(self.weight_bits),
                (7..=8).contains(&self.weight_bits),
                "8, or 7 for CPUs without VNNI",
            ),
            (
                "distill-weight",
                d.weight,
                d.weight > 0.0 && d.weight <= 1.0,
                "a part of the loss, above 0 and at most 1",
            ),
            (
                "distill-temperature",
                d.temperature,
                d.temperature >= 1.0 && d.temperature.is_finite(),
                "a temperature of at least 1, e.g. 4",
            ),
        ];
        match checks.into_iter().find(|(.., fine, _)| !fine) {
            Some((field, value, _, want)) => Err(QatError::Range { field, value, want }),
            None if self.learn_scales && self.unclipped_straight_through => Err(QatError::NoEffect {
                field: "pass-through",
                with: "learn-scales",
                why: "has a gradient of its own where values were clipped",
            }),
            None => Ok(()),
        }
    }

    /// How activations of this sign are quantized: by the recipe, and by what its target's codes can be.
    pub fn activation(&self, sign: Sign) -> Scheme {
        let scheme = Scheme::activation(sign);
        if self.reduce_range || self.target.signed_codes() { scheme.reduced() } else { scheme }
    }

    /// Whether ranges rest where calibration puts them, or are moved by their gradient: no observer moves them.
    pub fn holds_ranges(&self) -> bool {
        self.learn_scales || self.observer.holds_ranges()
    }

    /// The recipe for a training of `total_steps` steps: parts become steps, and observers of ranges that are held freeze
    /// at step 0. Scheduling twice is scheduling once.
    pub fn scheduled(&self, total_steps: u64) -> Qat {
        let at = |freeze: Freeze| freeze.step(total_steps).map_or(Freeze::Never, Freeze::Step);
        let freeze_observers = if self.holds_ranges() { Freeze::Step(0) } else { at(self.freeze_observers) };
        Qat { freeze_observers, freeze_bn: at(self.freeze_bn), ..self.clone() }
    }

    /// Images from which BatchNorm's statistics are to be estimated anew when `step` steps of `total_steps` are done: before the
    /// first step with frozen statistics, or, where they never froze, at the end (`at_end`). None: nothing is due.
    pub fn batch_norm_due(&self, step: u64, total_steps: u64, at_end: bool) -> Option<u64> {
        let freeze = self.freeze_bn.step(total_steps).unwrap_or(u64::MAX);
        let due = if at_end { step <= freeze } else { step == freeze };
        (due && self.bn_images > 0).then_some(self.bn_images)
    }

    /// What step `step` (0-based) of a training of `total_steps` steps does. `holds` says whether the observer leaves ranges
    /// where calibration puts them: the recipe's, or one of the user's own.
    pub fn phase(&self, step: u64, total_steps: u64, holds: bool) -> Phase {
        let before = |freeze: Freeze| freeze.step(total_steps).is_none_or(|first| step < first);
        Phase {
            observe: !self.learn_scales && !holds && before(self.freeze_observers),
            batch_stats: before(self.freeze_bn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Amp, Layout, Strategy};
    use super::*;

    #[test]
    fn statistics_are_due_where_they_freeze_or_where_they_never_did_at_the_end() {
        let of = |freeze_bn, bn_images, step, at_end| {
            Qat { freeze_bn, bn_images, ..Qat::default() }.batch_norm_due(step, 10, at_end)
        };
        let half = Freeze::Part(0.5);
        assert_eq!([4, 5, 6].map(|step| of(half, 64, step, false)), [None, Some(64), None]);
        assert_eq!([4, 5, 6].map(|step| of(half, 64, step, true)), [Some(64), Some(64), None]);
        assert_eq!((of(Freeze::Never, 64, 10, false), of(Freeze::Never, 64, 10, true)), (None, Some(64)));
        assert_eq!((of(half, 0, 5, false), of(half, 0, 5, true)), (None, None));
    }

    #[test]
    fn unsigned_codes_have_eight_bits_but_where_the_recipe_or_the_target_has_seven() {
        for (target, reduce_range, largest) in [
            (Target::Openvino, false, 255),
            (Target::Onnxruntime, false, 255),
            (Target::Tensorrt, false, 127),
            (Target::Openvino, true, 127),
            (Target::Onnxruntime, true, 127),
            (Target::Tensorrt, true, 127),
        ] {
            let qat = Qat { target, reduce_range, ..Qat::default() };
            let of = |sign| (qat.activation(sign).qmin(), qat.activation(sign).qmax());
            assert_eq!((of(Sign::Unsigned), of(Sign::Signed)), ((0, largest), (-127, 127)));
        }
    }

    #[test]
    fn observers_freeze_before_batch_norm() {
        let q = Qat::default();
        assert_eq!(q.phase(79, 100, false), Phase { observe: true, batch_stats: true });
        assert_eq!(q.phase(80, 100, false), Phase { observe: false, batch_stats: true });
        assert_eq!(q.phase(90, 100, false), Phase { observe: false, batch_stats: false });
        let scheduled = q.scheduled(100);
        assert_eq!((scheduled.freeze_observers, scheduled.freeze_bn), (Freeze::Step(80), Freeze::Step(90)));
        for step in [0, 79, 80, 89, 90, 99] {
            assert_eq!(scheduled.phase(step, 100, false), q.phase(step, 100, false));
        }
        assert_eq!(scheduled.scheduled(7), scheduled);
    }

    #[test]
    fn a_part_of_one_is_never_and_parts_round_up() {
        assert_eq!(Freeze::Part(1.0).step(100), None);
        assert_eq!(Freeze::Part(0.0).step(100), Some(0));
        assert_eq!(Freeze::Part(0.805).step(100), Some(81));
        assert_eq!((Freeze::Part(0.5).step(0), Freeze::Part(0.0).step(0)), (None, Some(0)));
        assert_eq!((Freeze::Never.step(9), Freeze::Step(3).step(9)), (None, Some(3)));
        assert_eq!(
            Qat { freeze_bn: Freeze::Part(1.0), ..Qat::default() }.scheduled(10).freeze_bn,
            Freeze::Never
        );
    }

    #[test]
    fn ranges_that_are_held_or_learned_are_not_moved_by_observers() {
        for observer in [Observer::Percentile, Observer::Mse, Observer::Entropy] {
            let q = Qat { observer, ..Qat::default() };
            assert!(q.holds_ranges() && !q.phase(0, 100, true).observe);
            assert_eq!(q.scheduled(100).freeze_observers, Freeze::Step(0));
        }
        assert!(!Qat { observer: Observer::Max, ..Qat::default() }.holds_ranges());
        assert!(!Qat { learn_scales: true, ..Qat::default() }.phase(0, 100, false).observe);
        assert!(Qat::default().phase(0, 100, false).observe);
    }

    #[test]
    fn what_is_written_is_read_back_and_missing_keys_have_their_default() {
        let distillation = Some(Distillation { weight: 0.25, temperature: 2.0 });
        let freeze_bn = Freeze::Step(7);
        let qat = Qat { distillation, freeze_bn, weight_bits: 7, reduce_range: true, ..Qat::default() };
        let strategy = Strategy { amp: Amp::Bf16, layout: Layout::Nchw, qat: Some(qat) };
        let text = serde_json::to_string(&strategy).unwrap();
        assert!(text.contains(r#""weight-bits":7"#) && text.contains(r#"{"step":7}"#), "{text}");
        assert_eq!(serde_json::from_str::<Strategy>(&text).unwrap(), strategy);
        let bare: Strategy = serde_json::from_str(r#"{"qat": {"target": "tensorrt"}}"#).unwrap();
        assert_eq!(bare.qat, Some(Qat { target: Target::Tensorrt, ..Qat::default() }));
    }

    #[test]
    fn numbers_out_of_their_range_are_named() {
        let d = |weight, temperature| Some(Distillation { weight, temperature });
        let bad: [(&str, Qat); 14] = [
            ("freeze-observers", Qat { freeze_observers: Freeze::Part(1.1), ..Qat::default() }),
            ("freeze-bn", Qat { freeze_bn: Freeze::Part(-0.1), ..Qat::default() }),
            ("freeze-bn", Qat { freeze_bn: Freeze::Part(f64::NAN), ..Qat::default() }),
            ("observer-momentum", Qat { observer_momentum: 1.0, ..Qat::default() }),
            ("observer-momentum", Qat { observer_momentum: -0.1, ..Qat::default() }),
            ("percentile", Qat { percentile: 50.0, ..Qat::default() }),
            ("percentile", Qat { percentile: 100.1, ..Qat::default() }),
            ("weight-bits", Qat { weight_bits: 6, ..Qat::default() }),
            ("weight-bits", Qat { weight_bits: 9, ..Qat::default() }),
            ("distill-weight", Qat { distillation: d(0.0, 4.0), ..Qat::default() }),
            ("distill-weight", Qat { distillation: d(1.1, 4.0), ..Qat::default() }),
            ("distill-temperature", Qat { distillation: d(0.5, 0.9), ..Qat::default() }),
            ("distill-temperature", Qat { distillation: d(0.5, f64::INFINITY), ..Qat::default() }),
            ("distill-temperature", Qat { distillation: d(1.0, f64::NAN), ..Qat::default() }),
        ];
        for (field, qat) in bad {
            assert_eq!(qat.check().unwrap_err().field(), field, "{qat:?}");
        }
        let both = Qat { learn_scales: true, unclipped_straight_through: true, ..Qat::default() };
        let told = both.check().unwrap_err().to_string();
        assert!(told.starts_with("qat.pass-through has no effect with qat.learn-scales"), "{told}");
        Qat { learn_scales: false, ..both }.check().unwrap();
        for fine in [
            Qat::default(),
            Qat { percentile: 100.0, weight_bits: 7, observer_momentum: 0.0, ..Qat::default() },
            Qat { distillation: d(1.0, 1.0), freeze_bn: Freeze::Part(1.0), ..Qat::default() },
            Qat { freeze_observers: Freeze::Step(u64::MAX), freeze_bn: Freeze::Never, ..Qat::default() },
        ] {
            fine.check().unwrap();
        }
    }
}
