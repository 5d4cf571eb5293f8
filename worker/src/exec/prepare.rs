//! Weights as a step uses them, made once a step: fake-quantized per channel, cast, laid out. They are leaves of
//! autograd; their gradients are added to the FP32 buckets microbatch by microbatch, so nothing is summed in a
//! narrow type. A per-channel abs-max range clips nothing, so the straight-through gradient is the identity.

use super::integer_bias::round_biases;
use super::weights::weight_steps;
use super::{ExecError, Weights, kind, with_layout};
use crate::graph::Graph;
use crate::native;
use crate::quant::scheme::{MIN_STEP, QMAX, weight_qmax};
use tch::{Kind, Tensor};

/// Leaves in the order of the trainable parameters, and the quantizers' steps.
pub struct Prepared {
    /// One leaf a trainable parameter.
    pub leaves: Vec<Tensor>,
    /// FP32 steps of the quantizers, `[quantizers]`: `max(range / 127, MIN_STEP)`. They require gradients where scales
    /// are learned.
    pub steps: Tensor,
    /// Whether they are.
    pub learns_scales: bool,
}

impl Prepared {
    /// Prepares all weights of `graph`. `quantize` off leaves weights in floating point (calibration of the FP
    /// network); `grad` makes the leaves require gradients. Without it, as in evaluation, biases lie on the integer grid of
    /// targets that have one.
    pub fn new(graph: &Graph, weights: &Weights, quantize: bool, grad: bool) -> Result<Self, ExecError> {
        let mut uses: Vec<Option<(bool, Kind)>> = vec![None; weights.layout.trainable.len()];
        for node in &graph.nodes {
            let Some(layer) = node.op.layer() else { continue };
            for (name, quantized) in [(Some(&layer.weight), layer.quantized), (layer.bias.as_ref(), false)] {
                let index = name.and_then(|n| weights.layout.trainable_index(n));
                if let Some(i) = index {
                    uses[i] = Some((quantized, kind(layer.compute)));
                }
            }
        }
        let _guard = tch::no_grad_guard();
        let qmax = weight_qmax(graph.weight_bits);
        let mut leaves = Vec::with_capacity(uses.len());
        for ((slot, master), used) in weights.layout.trainable.iter().zip(weights.trainable()).zip(uses) {
            let mut leaf = master;
            if let Some((quantized, kind)) = used {
                if quantized && quantize {
                    let steps = weight_steps(&leaf, qmax)?;
                    leaf = native::fake_quant_per_channel(&leaf, &steps, -qmax, qmax, false)
                        .map_err(|source| ExecError::Native { node: slot.name.clone(), source })?;
                }
                leaf = with_layout(&leaf.f_to_kind(kind)?, graph.layout)?;
            }
            leaves.push(leaf.f_detach()?.f_set_requires_grad(grad)?);
        }
        let steps = weights.ranges.f_div_scalar(QMAX as f64)?.f_clamp_min(f64::from(MIN_STEP))?.f_detach()?;
        if graph.integer_biases && quantize && !grad {
            round_biases(graph, weights, qmax, &steps, &mut leaves)?;
        }
        Ok(Self { leaves, steps, learns_scales: false })
    }

    /// The same with steps that are leaves too.
    pub fn learning_scales(self) -> Result<Self, ExecError> {
        Ok(Self { steps: self.steps.f_set_requires_grad(true)?, learns_scales: true, ..self })
    }
}
