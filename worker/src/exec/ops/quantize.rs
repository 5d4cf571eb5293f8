//! The activation quantizer.

use super::super::{ExecError, Mode, Prepared};
use super::{Call, Forward};
use crate::graph::Quantizer;
use crate::native::{self, NativeError};
use crate::quant::scheme::Scheme;
use tch::Tensor;

impl Forward for Quantizer {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let (x, mode) = (call.x(), call.mode());
        let at = |source| ExecError::Native { node: call.node.name.clone(), source };
        let i = call.quantizer.expect("resolved for every quantizer");
        if self.active && mode.quantize {
            let (y, seen) = quantize(x, call.pass.prepared, i, self.scheme, mode).map_err(at)?;
            if let Some(seen) = seen {
                call.pass.record.observe(i, &seen)?;
            }
            return Ok(y);
        }
        if mode.observe {
            let seen = native::abs_max(x).map_err(at)?;
            call.pass.record.observe(i, &seen)?;
        }
        Ok(x.shallow_clone())
    }
}

/// Fake-quantizes by quantizer `index`; what it saw, if it observes.
pub(in super::super) fn quantize(
    x: &Tensor,
    prepared: &Prepared,
    index: usize,
    scheme: Scheme,
    mode: Mode,
) -> Result<(Tensor, Option<Tensor>), NativeError> {
    let scale = prepared.scales.narrow(0, index as i64, 1);
    let grad_scale = scheme.learned_gradient_scale(x.numel()) as f32;
    let (qmin, qmax) = (scheme.qmin(), scheme.qmax());
    let unclipped = mode.unclipped;
    let seen = |(y, seen)| (y, Some(seen));
    match (prepared.learns_scales, mode.observe) {
        // Ranges that are learned are observed only where they do not quantize yet.
        (true, _) => native::fake_quant_learned(x, &scale, qmin, qmax, grad_scale).map(|y| (y, None)),
        (false, false) => native::fake_quant(x, &scale, qmin, qmax, unclipped).map(|y| (y, None)),
        (false, true) => native::observe_fake_quant(x, &scale, qmin, qmax, unclipped).map(seen),
    }
}
