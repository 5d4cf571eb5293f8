//! The QAT recipe.

use super::{JobSettings, StrategyError, Target, setting, target_name};
use octrain_proto::v1::{ModelFacts, QatRecipe, QuantTarget, Setting};

/// The step from which a part of the schedule is frozen: `ceil(part * total)`; never for a part of 1.
pub fn freeze_step(part: f64, total_steps: u64) -> Option<u64> {
    (part < 1.0).then(|| (part * total_steps as f64).ceil() as u64)
}

pub(super) fn decide(
    s: &JobSettings,
    model: &ModelFacts,
    global_batch: u64,
    total_steps: u64,
) -> Result<(Option<QatRecipe>, Vec<Setting>), StrategyError> {
    if !s.qat {
        return Ok((None, vec![setting("qat", "off", "--qat is not set")]));
    }
    if model.convolutions == 0 {
        return Err(StrategyError::NothingToQuantize { model: model.name.clone() });
    }
    for (flag, value) in
        [("qat-freeze-observers", s.qat_freeze_observers), ("qat-freeze-bn", s.qat_freeze_bn)]
    {
        if !(0.0..=1.0).contains(&value) {
            let want = "a part of the steps, from 0 to 1 (1: never)";
            return Err(StrategyError::Range { flag, value, want });
        }
    }
    if !(0.0..1.0).contains(&s.qat_observer_momentum) {
        let want = "a momentum from 0 to below 1, e.g. 0.9";
        return Err(StrategyError::Range {
            flag: "qat-observer-momentum",
            value: s.qat_observer_momentum,
            want,
        });
    }
    let recipe = QatRecipe {
        target: match s.target {
            Target::Openvino => QuantTarget::Openvino,
            Target::Onnxruntime => QuantTarget::Onnxruntime,
            Target::Tensorrt => QuantTarget::Tensorrt,
        }
        .into(),
        calibration_images: s.qat_calibration_images,
        calibration_steps: s.qat_calibration_images.div_ceil(global_batch),
        freeze_observers_step: freeze_step(s.qat_freeze_observers, total_steps),
        freeze_bn_step: freeze_step(s.qat_freeze_bn, total_steps),
        observer_momentum: s.qat_observer_momentum,
        pass_through: s.qat_pass_through,
        skip: s.qat_skip.clone(),
        weights: "int8 symmetric per output channel".into(),
        activations: "int8 symmetric per tensor, moving average of absolute maxima".into(),
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
        setting("quant-weights", &recipe.weights, "what all targets share"),
        setting("quant-activations", &recipe.activations, "what all targets share"),
        setting(
            "calibration-steps",
            recipe.calibration_steps,
            format!(
                "--qat-calibration-images {} in global batches of {global_batch}",
                s.qat_calibration_images
            ),
        ),
        setting(
            "observers-freeze-step",
            step(recipe.freeze_observers_step, s.qat_freeze_observers),
            of("qat-freeze-observers", s.qat_freeze_observers),
        ),
        setting(
            "bn-freeze-step",
            step(recipe.freeze_bn_step, s.qat_freeze_bn),
            of("qat-freeze-bn", s.qat_freeze_bn),
        ),
        setting("observer-momentum", s.qat_observer_momentum, "--qat-observer-momentum"),
    ];
    Ok((Some(recipe), settings))
}
