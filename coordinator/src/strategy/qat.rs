//! The QAT recipe.

use super::{JobSettings, Observer, StrategyError, Target, setting, target_name};
use octrain_proto::v1::{Distillation, ModelFacts, QatRecipe, QuantObserver, QuantTarget, Setting};

/// The step from which a part of the schedule is frozen: `ceil(part * total)`; never for a part of 1.
pub fn freeze_step(part: f64, total_steps: u64) -> Option<u64> {
    (part < 1.0).then(|| (part * total_steps as f64).ceil() as u64)
}

pub(super) fn decide(
    s: &JobSettings,
    model: &ModelFacts,
    total_steps: u64,
) -> Result<(Option<QatRecipe>, Vec<Setting>), StrategyError> {
    if !s.qat {
        return Ok((None, vec![setting("qat", "off", "--qat is not set")]));
    }
    if model.convolutions == 0 {
        return Err(StrategyError::NothingToQuantize { model: model.name.clone() });
    }
    check(s)?;
    let (observer, activations) = observer(s);
    // These ranges rest where calibration puts them, or are moved by their gradient.
    let held = s.qat_learn_scales
        || matches!(s.qat_observer, Observer::Percentile | Observer::Mse | Observer::Entropy);
    let recipe = QatRecipe {
        target: match s.target {
            Target::Openvino => QuantTarget::Openvino,
            Target::Onnxruntime => QuantTarget::Onnxruntime,
            Target::Tensorrt => QuantTarget::Tensorrt,
        }
        .into(),
        calibration_images: s.qat_calibration_images,
        freeze_observers_step: if held { Some(0) } else { freeze_step(s.qat_freeze_observers, total_steps) },
        freeze_bn_step: freeze_step(s.qat_freeze_bn, total_steps),
        observer_momentum: s.qat_observer_momentum,
        pass_through: s.qat_pass_through,
        skip: s.qat_skip.clone(),
        observer: observer.into(),
        percentile: s.qat_percentile,
        weight_bits: s.qat_weight_bits,
        learn_scales: s.qat_learn_scales,
        bn_images: s.qat_bn_images,
        distillation: s
            .qat_distill
            .then_some(Distillation { weight: s.qat_distill_weight, temperature: s.qat_distill_temperature }),
    };
    let step = |at: Option<u64>, part: f64| match at {
        None => "never".to_string(),
        Some(_) if total_steps == 0 => format!("at {} of the steps", part),
        Some(step) => step.to_string(),
    };
    let of = |flag: &str, part: f64| match total_steps {
        0 => format!("--{flag} {part}; the steps are not counted yet"),
        n => format!("--{flag} {part} of {n} steps"),
    };
    let skipped = match s.qat_skip.is_empty() {
        true => "every place the target computes in INT8".to_string(),
        false => format!("but for --qat-skip {}", s.qat_skip.join(", ")),
    };
    let settings = vec![
        setting("qat", "on", "--qat"),
        setting("quant-target", target_name(s.target), format!("--target: {skipped}")),
        setting(
            "quant-weights",
            format!("int{} symmetric per output channel", s.qat_weight_bits),
            format!("--qat-weight-bits {}", s.qat_weight_bits),
        ),
        setting("quant-activations", activations, "--qat-observer and --qat-learn-scales"),
        setting(
            "calibration-images",
            recipe.calibration_images,
            "--qat-calibration-images, in whole microbatches, before the first step",
        ),
        setting(
            "observers-freeze-step",
            step(recipe.freeze_observers_step, s.qat_freeze_observers),
            match held {
                true => "ranges are held, or learned, from calibration on".into(),
                false => of("qat-freeze-observers", s.qat_freeze_observers),
            },
        ),
        setting(
            "bn-freeze-step",
            step(recipe.freeze_bn_step, s.qat_freeze_bn),
            of("qat-freeze-bn", s.qat_freeze_bn),
        ),
        setting("observer-momentum", s.qat_observer_momentum, "--qat-observer-momentum"),
        setting(
            "bn-images",
            s.qat_bn_images,
            "--qat-bn-images: BatchNorm's statistics anew when they freeze",
        ),
        match &recipe.distillation {
            None => setting("distillation", "off", "--qat-distill is not set"),
            Some(d) => setting(
                "distillation",
                format!("{} of the loss, temperature {}", d.weight, d.temperature),
                "--qat-distill",
            ),
        },
    ];
    Ok((Some(recipe), settings))
}

/// An error on the first setting out of its range.
fn check(s: &JobSettings) -> Result<(), StrategyError> {
    let part = "a part of the steps, from 0 to 1 (1: never)";
    let checks: [(&'static str, f64, bool, &'static str); 7] = [
        ("qat-freeze-observers", s.qat_freeze_observers, (0.0..=1.0).contains(&s.qat_freeze_observers), part),
        ("qat-freeze-bn", s.qat_freeze_bn, (0.0..=1.0).contains(&s.qat_freeze_bn), part),
        (
            "qat-observer-momentum",
            s.qat_observer_momentum,
            (0.0..1.0).contains(&s.qat_observer_momentum),
            "a momentum from 0 to below 1, e.g. 0.9",
        ),
        (
            "qat-percentile",
            s.qat_percentile,
            s.qat_percentile > 50.0 && s.qat_percentile <= 100.0,
            "a percentage above 50 and at most 100, e.g. 99.99",
        ),
        (
            "qat-weight-bits",
            f64::from(s.qat_weight_bits),
            (7..=8).contains(&s.qat_weight_bits),
            "8, or 7 for CPUs without VNNI",
        ),
        (
            "qat-distill-weight",
            s.qat_distill_weight,
            s.qat_distill_weight > 0.0 && s.qat_distill_weight <= 1.0,
            "a part of the loss, above 0 and at most 1",
        ),
        (
            "qat-distill-temperature",
            s.qat_distill_temperature,
            s.qat_distill_temperature >= 1.0 && s.qat_distill_temperature.is_finite(),
            "a temperature of at least 1, e.g. 4",
        ),
    ];
    match checks.into_iter().find(|(.., fine, _)| !fine) {
        Some((flag, value, _, want)) => Err(StrategyError::Range { flag, value, want }),
        None => Ok(()),
    }
}

/// The observer, and how activations are quantized in words.
fn observer(s: &JobSettings) -> (QuantObserver, String) {
    let (observer, how) = match s.qat_observer {
        Observer::MovingAverage => {
            (QuantObserver::MovingAverage, "moving average of absolute maxima".to_string())
        }
        Observer::Max => (QuantObserver::Max, "largest absolute value".into()),
        Observer::Percentile => (
            QuantObserver::Percentile,
            format!("percentile {} of absolute values, held from calibration", s.qat_percentile),
        ),
        Observer::Mse => (QuantObserver::Mse, "least squared error, held from calibration".into()),
        Observer::Entropy => (QuantObserver::Entropy, "least relative entropy, held from calibration".into()),
    };
    let learned = if s.qat_learn_scales { ", then learned" } else { "" };
    (observer, format!("int8 symmetric per tensor, {how}{learned}"))
}
