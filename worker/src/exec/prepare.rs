//! Weights as a step uses them, made once a step: fake-quantized per channel, cast, laid out. They are leaves of
//! autograd; their gradients are added to the FP32 buckets microbatch by microbatch, so nothing is summed in a
//! narrow type. A per-channel abs-max range clips nothing, so the straight-through gradient is the identity.

use super::integer_bias::deploy;
use super::{ExecError, Mode, Weights, integer, kind, with_layout};
use crate::graph::Graph;
use crate::native::{self, WeightCodes};
use crate::quant::scheme::Scheme;
use std::cell::OnceCell;
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
    /// Codes of the weights of layers that compute on codes, by trainable parameter.
    pub(super) codes: Vec<Option<WeightCodes>>,
    /// The same as a layer's product wants them, by node, from its first run on.
    pub(super) packed: Vec<OnceCell<Tensor>>,
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
        let encoded = match mode.encodes() {
            true => integer::weights(graph, weights),
            false => vec![false; uses.len()],
        };
        let _guard = tch::no_grad_guard();
        let mut leaves = Vec::with_capacity(uses.len());
        let mut codes = Vec::with_capacity(uses.len());
        let slots = weights.layout.trainable.iter().zip(weights.trainable());
        for (((slot, master), used), encoded) in slots.zip(uses).zip(encoded) {
            let (mut leaf, mut of_leaf) = (master, None);
            if let Some((scheme, kind)) = used {
                let at = |source| ExecError::Native { node: slot.name.clone(), source };
                match (scheme.filter(|_| quantize), leaf.device()) {
                    (Some(scheme), Device::Cpu) => {
                        let made = native::weight_on_cpu(&leaf, scheme, kind, graph.layout, encoded);
                        (leaf, of_leaf) = made.map_err(at)?;
                    }
                    (Some(scheme), _) => {
                        leaf = native::weight(&leaf, scheme, kind, graph.layout).map_err(at)?;
                    }
                    (None, _) => leaf = with_layout(&leaf.f_to_kind(kind)?, graph.layout)?,
                }
            }
            leaves.push(leaf.f_detach()?.f_set_requires_grad(grad)?);
            codes.push(of_leaf);
        }
        let scales = weights.scales()?.f_detach()?;
        let integer_biases = || graph.nodes.iter().any(|n| n.op.layer().is_some_and(|l| l.integer_bias));
        if quantize && !grad && !mode.batch_stats && integer_biases() {
            deploy(graph, weights, &scales, &mut leaves)?;
        }
        let packed = graph.nodes.iter().map(|_| OnceCell::new()).collect();
        Ok(Self { leaves, scales, learns_scales: false, codes, packed })
    }

    /// The same with scales that are leaves too.
    pub fn learning_scales(self) -> Result<Self, ExecError> {
        Ok(Self { scales: self.scales.f_set_requires_grad(true)?, learns_scales: true, ..self })
    }
}
