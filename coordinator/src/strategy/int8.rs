//! Whether training computes the forward of quantized layers on INT8 codes.

use super::{JobSettings, StrategyError};
use octrain_core::strategy::{Amp, Device, Layout, Purpose};
use octrain_proto::v1::{Capabilities, WorkerFacts};

/// Whether it does, and why; an error where it was asked for and cannot be.
pub(super) fn choose(
    s: &JobSettings,
    purpose: Purpose,
    device: Device,
    workers: &[WorkerFacts],
) -> Result<(bool, &'static str), StrategyError> {
    let quantization = &s.strategy.quantization;
    if !quantization.qat_int8_forward {
        return Ok((
            false,
            "--qat-int8-forward is not set: products of what codes stand for, in the type of --amp",
        ));
    }
    if purpose != Purpose::Train || !quantization.qat {
        return Ok((false, "nothing is trained that is quantized"));
    }
    let error = |why: String| Err(StrategyError::Int8Forward { why });
    if device == Device::Cuda {
        return error("there are kernels for it on CPUs only: say --device cpu".into());
    }
    if s.strategy.data_layout == Layout::Nchw {
        return error("it takes images whose channels are innermost: say --data-layout NHWC".into());
    }
    if s.strategy.amp == Amp::Fp16 {
        return error("it makes FP32 or BF16 of its sums: say --amp bf16, or --amp off".into());
    }
    let lacks =
        |can: fn(&Capabilities) -> bool| workers.iter().find(|w| !w.capabilities.as_ref().is_some_and(can));
    if s.strategy.amp == Amp::Bf16
        && let Some(w) = lacks(|c| c.cpu_bf16)
    {
        return error(format!("the CPU of {} has no kernels that make BF16 of sums: say --amp off", w.host));
    }
    match lacks(|c| c.cpu_int8) {
        None => Ok((
            true,
            "--qat-int8-forward: sums of codes, on CPUs that all have VNNI; gradients as without it",
        )),
        Some(w) => error(format!(
            "sums of products of 8-bit codes are not exact on the CPU of {}, which has no VNNI or may not use it",
            w.host
        )),
    }
}
