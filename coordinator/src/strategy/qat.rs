//! What is said and checked of the recipe of quantization-aware training.

use super::{StrategyError, setting};
use octrain_core::graph::NetworkFacts;
use octrain_core::quant::scheme::Sign;
use octrain_core::strategy::{Freeze, Observer, Qat};
use octrain_proto::v1::Setting;

/// The settings that the recipe decides, with their reasons; an error on a recipe that cannot be trained.
pub(super) fn settings(
    qat: Option<&Qat>,
    network: &NetworkFacts,
    total_steps: u64,
) -> Result<Vec<Setting>, StrategyError> {
    let Some(qat) = qat else { return Ok(vec![setting("qat", "off", "--qat is not set")]) };
    if network.layers == 0 {
        return Err(StrategyError::NothingToQuantize { model: network.name.clone() });
    }
    qat.check()?;
    let skipped = match qat.skip.is_empty() {
        true => "every place the target computes in INT8".to_string(),
        false => format!("but for --qat-skip {}", qat.skip.join(", ")),
    };
    let scheduled = qat.scheduled(total_steps);
    Ok(vec![
        setting("qat", "on", "--qat"),
        setting("quant-target", qat.target, format!("--target: {skipped}")),
        setting(
            "quant-weights",
            format!("int{} symmetric per output channel", qat.weight_bits),
            format!("--qat-weight-bits {}", qat.weight_bits),
        ),
        setting("quant-activations", activations(qat), "--qat-observer and --qat-learn-scales"),
        setting("quant-unsigned-codes", unsigned_codes(qat), why_unsigned_codes(qat)),
        setting(
            "calibration-images",
            qat.calibration_images,
            "--qat-calibration-images, in whole microbatches, before the first step",
        ),
        setting(
            "observers-freeze-step",
            step(scheduled.freeze_observers, qat.freeze_observers, total_steps),
            match qat.holds_ranges() {
                true => "ranges are held, or learned, from calibration on".into(),
                false => why("qat-freeze-observers", qat.freeze_observers, total_steps),
            },
        ),
        setting(
            "bn-freeze-step",
            step(scheduled.freeze_bn, qat.freeze_bn, total_steps),
            why("qat-freeze-bn", qat.freeze_bn, total_steps),
        ),
        setting("observer-momentum", qat.observer_momentum, "--qat-observer-momentum"),
        setting(
            "clipped-gradients",
            if qat.unclipped_straight_through { "pass" } else { "stop" },
            "--qat-pass-through: where values were clipped",
        ),
        setting("bn-images", qat.bn_images, "--qat-bn-images: BatchNorm's statistics anew when they freeze"),
        match qat.distillation {
            None => setting("distillation", "off", "--qat-distill is not set"),
            Some(d) => setting(
                "distillation",
                format!("{} of the loss, temperature {}", d.weight, d.temperature),
                "--qat-distill",
            ),
        },
    ])
}

/// The frozen step in words.
fn step(scheduled: Freeze, asked: Freeze, total_steps: u64) -> String {
    match (scheduled, asked) {
        (Freeze::Never, Freeze::Part(part)) if part < 1.0 && total_steps == 0 => {
            format!("at {part} of the steps")
        }
        (Freeze::Step(step), _) => step.to_string(),
        _ => "never".into(),
    }
}

/// Where it comes from.
fn why(flag: &str, asked: Freeze, total_steps: u64) -> String {
    match (asked, total_steps) {
        (Freeze::Part(part), 0) => format!("--{flag} {part}; the steps are not counted yet"),
        (Freeze::Part(part), n) => format!("--{flag} {part} of {n} steps"),
        _ => format!("--{flag}"),
    }
}

/// Codes of activations that are never negative.
fn unsigned_codes(qat: &Qat) -> String {
    let scheme = qat.activation(Sign::Unsigned);
    format!("{} to {} behind a ReLU", scheme.qmin(), scheme.qmax())
}

/// Where they come from, and what CPUs without 8-bit dot products make of them: two products of codes up to 255 and 127 are
/// beyond a 16-bit sum.
fn why_unsigned_codes(qat: &Qat) -> String {
    match (qat.target.signed_codes(), qat.reduce_range, qat.weight_bits) {
        (true, ..) => format!("--target {} has signed codes alone", qat.target),
        (false, true, _) => "--qat-reduce-range".into(),
        (false, false, 7) => "--qat-reduce-range is off; 7-bit weights suit CPUs without VNNI".into(),
        (false, false, _) => "--qat-reduce-range is off: for CPUs with VNNI, sums of others saturate".into(),
    }
}

/// How activations are quantized, in words.
fn activations(qat: &Qat) -> String {
    let how = match qat.observer {
        Observer::MovingAverage => "moving average of absolute maxima".to_string(),
        Observer::Max => "largest absolute value".into(),
        Observer::Percentile => {
            format!("percentile {} of absolute values, held from calibration", qat.percentile)
        }
        Observer::Mse => "least squared error, held from calibration".into(),
        Observer::Entropy => "least relative entropy, held from calibration".into(),
    };
    let learned = if qat.learn_scales { ", then learned" } else { "" };
    format!("int8 symmetric per tensor, {how}{learned}")
}
