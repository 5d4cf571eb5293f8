//! Compute precision and loss scaling.

use super::{JobSettings, StrategyError};
use octrain_core::strategy::{Amp, Device};
use octrain_proto::v1::{Fp32Math, LossScaling, LossScalingMode, WorkerFacts};

/// Why the precision that was asked for is what it is, checked against what the devices can do.
pub(super) fn choose(
    s: &JobSettings,
    device: Device,
    workers: &[WorkerFacts],
) -> Result<String, StrategyError> {
    match (s.strategy.amp, device) {
        (Amp::Off, _) => Ok("--amp is off".into()),
        (Amp::Fp16, Device::Cuda) => Ok("--amp fp16".into()),
        (Amp::Fp16, Device::Cpu) => {
            Ok("--amp fp16; CPUs compute products in FP32 and round them, so it is no faster than FP32"
                .into())
        }
        (Amp::Bf16, Device::Cuda) => {
            for w in workers {
                if let Some(d) = w.capabilities.iter().flat_map(|c| &c.cuda_devices).find(|d| d.major < 8) {
                    return Err(StrategyError::Bf16 {
                        place: crate::place_of(w),
                        device: d.name.clone(),
                        major: d.major,
                        minor: d.minor,
                    });
                }
            }
            Ok("--amp bf16; all GPUs compute it in hardware".into())
        }
        (Amp::Bf16, Device::Cpu) => {
            let slow = workers.iter().find(|w| !w.capabilities.as_ref().is_some_and(|c| c.cpu_bf16));
            Ok(match slow {
                None => "--amp bf16; oneDNN has kernels of BF16 for the CPUs of all workers".into(),
                Some(w) => format!(
                    "--amp bf16; oneDNN has no kernels of BF16 for the CPU of {}, which computes products in FP32 and rounds them, no faster than FP32",
                    w.host
                ),
            })
        }
    }
}

/// What GPUs make of FP32 operands: one setting for convolutions and matrix products.
pub(super) fn fp32_math(s: &JobSettings, device: Device, workers: &[WorkerFacts]) -> (Fp32Math, String) {
    let mut devices = workers.iter().flat_map(|w| w.capabilities.iter().flat_map(|c| &c.cuda_devices));
    match device {
        Device::Cpu => (Fp32Math::Ieee, "CPUs compute FP32 as it is".into()),
        Device::Cuda if s.strategy.quantization.qat => (
            Fp32Math::Ieee,
            "--qat: TF32 would round operands, and what is measured would not be what is deployed".into(),
        ),
        Device::Cuda => match devices.find(|d| d.major < 8) {
            Some(d) => (Fp32Math::Ieee, format!("{} ({}.{}) has no TF32", d.name, d.major, d.minor)),
            None => (
                Fp32Math::Tf32,
                "as the reference's TF32 script trains: what is left in FP32 rounds operands to 10 bits"
                    .into(),
            ),
        },
    }
}

/// Loss scaling as asked for, in any precision.
pub(super) fn loss_scaling(s: &JobSettings) -> Result<(LossScaling, String), StrategyError> {
    if !(s.scale_loss.is_finite() && s.scale_loss > 0.0) {
        let want = "a finite factor above 0, e.g. 128";
        return Err(StrategyError::Range { flag: "scale-loss", value: s.scale_loss, want });
    }
    let needless = match s.strategy.amp {
        Amp::Fp16 => "",
        Amp::Bf16 => " (needless: BF16 has the range of FP32)",
        Amp::Off => " (needless in FP32)",
    };
    let (mode, reason) = if s.use_dynamic_loss_scaling {
        (
            LossScalingMode::Dynamic,
            format!("--use-dynamic-loss-scaling, from --scale-loss {}{needless}", s.scale_loss),
        )
    } else if s.scale_loss != 1.0 {
        (LossScalingMode::Static, format!("--scale-loss {}{needless}", s.scale_loss))
    } else {
        let reason = match s.strategy.amp {
            Amp::Fp16 => {
                "no scaling asked for; small FP16 gradients may underflow: --use-dynamic-loss-scaling avoids it"
            }
            Amp::Bf16 => "BF16 has the range of FP32",
            Amp::Off => "FP32 gradients do not underflow",
        };
        (LossScalingMode::Off, reason.into())
    };
    Ok((LossScaling { mode: mode.into(), scale: s.scale_loss }, reason))
}

/// Name in texts.
pub(crate) fn math_name(math: Fp32Math) -> &'static str {
    match math {
        Fp32Math::Ieee => "ieee",
        Fp32Math::Tf32 => "tf32",
    }
}

/// Mode and factor in texts.
pub(crate) fn scaling_text(scaling: &LossScaling) -> String {
    match scaling.mode() {
        LossScalingMode::Off => "off".into(),
        LossScalingMode::Static => format!("static {}", scaling.scale),
        LossScalingMode::Dynamic => format!("dynamic from {}", scaling.scale),
    }
}
