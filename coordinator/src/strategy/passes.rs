//! Which graph passes run. Names and order are the worker's pass list.

use super::settings::{Amp, DataLayout, JobSettings};
use octrain_proto::v1::{ModelFacts, PassDecision, Purpose};

/// All passes, in the order they run.
pub const ORDER: [&str; 7] = [
    "drop-dead",
    "quantize-weights",
    "quantize-activations",
    "observe-superset",
    "amp-cast",
    "memory-layout",
    "fold-batch-norm",
];

/// Decides on every pass, in order.
pub fn decide(s: &JobSettings, model: &ModelFacts, purpose: Purpose) -> Vec<PassDecision> {
    ORDER
        .iter()
        .map(|&name| {
            let (on, reason) = match name {
                "drop-dead" => (true, "always: what the output does not need costs time and memory".into()),
                "quantize-weights" | "quantize-activations" | "observe-superset" => quantize(name, s, model),
                "amp-cast" => amp(s, purpose),
                "memory-layout" => layout(s),
                _ => fold(model, purpose),
            };
            PassDecision { name: name.into(), on, reason }
        })
        .collect()
}

fn quantize(name: &str, s: &JobSettings, model: &ModelFacts) -> (bool, String) {
    if !s.qat {
        return (false, "--qat is not set".into());
    }
    let target = super::target_name(s.target);
    let reason = match name {
        "quantize-weights" => format!(
            "--qat: {} convolutions and the linear layers of {} train with INT8 weights",
            model.convolutions, model.name
        ),
        "quantize-activations" => format!("--qat: inputs are quantized where {target} will compute in INT8"),
        _ => format!(
            "--qat: ranges other targets than {target} need are recorded, so every profile can be exported"
        ),
    };
    (true, reason)
}

fn amp(s: &JobSettings, purpose: Purpose) -> (bool, String) {
    match (s.amp, purpose) {
        (Amp::Off, _) => (false, "--amp is off: FP32 throughout".into()),
        (_, Purpose::Export) => {
            (false, "export writes FP32 values; the engine chooses its own precision".into())
        }
        (Amp::Bf16, _) => (
            true,
            "--amp bf16: convolutions and linear layers compute in BF16, master weights stay FP32".into(),
        ),
        (Amp::Fp16, _) => (
            true,
            "--amp fp16: convolutions and linear layers compute in FP16, master weights stay FP32".into(),
        ),
    }
}

fn layout(s: &JobSettings) -> (bool, String) {
    match s.data_layout {
        DataLayout::Nhwc => (true, "--data-layout NHWC: channels-last is what fast convolutions want".into()),
        DataLayout::Nchw => (false, "--data-layout NCHW".into()),
    }
}

fn fold(model: &ModelFacts, purpose: Purpose) -> (bool, String) {
    match purpose {
        _ if model.batch_norms == 0 => (false, format!("{} has no BatchNorm", model.name)),
        Purpose::Train => (false, "trained unfolded; export folds exactly".into()),
        Purpose::Eval => (false, "evaluated as trained, unfolded; export folds exactly".into()),
        Purpose::Export => {
            (true, format!("export: {} BatchNorms fold exactly into their convolutions", model.batch_norms))
        }
    }
}
