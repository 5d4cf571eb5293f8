//! Weights as a step uses them, made once a step: fake-quantized per channel, cast, laid out. They are leaves of
//! autograd; their gradients are added to the FP32 buckets microbatch by microbatch, so nothing is summed in a
//! narrow type. A per-channel abs-max range clips nothing, so the straight-through gradient is the identity.

use super::integer_bias::deploy;
use super::weights::weight_scales;
use super::{ExecError, Mode, Weights, kind, with_layout};
use crate::graph::Graph;
use crate::native;
use crate::quant::scheme::Scheme;
use tch::{Device, Kind, Tensor};

/// Leaves in the order of the trainable parameters, and the quantizers' scales.
pub struct Prepared {
    /// One leaf a trainable parameter.
    pub leaves: Vec<Tensor>,
    /// FP32 scales of the quantizers, `[quantizers]`: `max(range / qmax, MIN_SCALE)`. They require gradients where scales
    /// are learned.
    pub scales: Tensor,
    /// Whether they are.
    pub learns_scales: bool,
}

impl Prepared {
    /// Prepares all weights of `graph` as `mode` runs it: unquantized they stay in floating point (calibration of the FP
    /// network); `grad` makes the leaves require gradients. Without it, as in evaluation, layers whose bias the target adds as an
    /// integer have the numbers that are deployed; not so where BatchNorm follows the batch, whose running statistics, which
    /// those numbers come from, are then not what is computed with.
    pub fn new(graph: &Graph, weights: &Weights, mode: Mode, grad: bool) -> Result<Self, ExecError> {
        let quantize = mode.quantize;
        let mut uses: Vec<Option<(Option<Scheme>, Kind)>> = vec![None; weights.layout.trainable.len()];
        for node in &graph.nodes {
            let Some(layer) = node.op.layer() else { continue };
            for (name, scheme) in [(Some(&layer.weight), layer.scheme), (layer.bias.as_ref(), None)] {
                let index = name.and_then(|n| weights.layout.trainable_index(n));
                if let Some(i) = index {
                    uses[i] = Some((scheme, kind(layer.compute)));
                }
            }
        }
        let _guard = tch::no_grad_guard();
        let mut leaves = Vec::with_capacity(uses.len());
        for ((slot, master), used) in weights.layout.trainable.iter().zip(weights.trainable()).zip(uses) {
            let mut leaf = master;
            if let Some((scheme, kind)) = used {
                let scheme = scheme.filter(|_| quantize);
                if let Some(scheme) = scheme.filter(|_| leaf.device() != Device::Cpu) {
                    leaf = native::weight(&leaf, scheme, kind, graph.layout)
                        .map_err(|source| ExecError::Native { node: slot.name.clone(), source })?;
                    leaves.push(leaf.f_set_requires_grad(grad)?);
                    continue;
                }
                if let Some(scheme) = scheme {
                    let scales = weight_scales(&leaf, scheme)?;
                    let (qmin, qmax) = (scheme.qmin(), scheme.qmax());
                    leaf = native::fake_quant_per_channel(&leaf, &scales, qmin, qmax, false)
                        .map_err(|source| ExecError::Native { node: slot.name.clone(), source })?;
                }
                leaf = with_layout(&leaf.f_to_kind(kind)?, graph.layout)?;
            }
            leaves.push(leaf.f_detach()?.f_set_requires_grad(grad)?);
        }
        let scales = weights.scales()?.f_detach()?;
        let integer_biases = || graph.nodes.iter().any(|n| n.op.layer().is_some_and(|l| l.integer_bias));
        if quantize && !grad && !mode.batch_stats && integer_biases() {
            deploy(graph, weights, &scales, &mut leaves)?;
        }
        Ok(Self { leaves, scales, learns_scales: false })
    }

    /// The same with scales that are leaves too.
    pub fn learning_scales(self) -> Result<Self, ExecError> {
        Ok(Self { scales: self.scales.f_set_requires_grad(true)?, learns_scales: true, ..self })
    }
}
