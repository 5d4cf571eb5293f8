//! How a step's sums change the network.

use super::gradient_buffer::GradientBuffer;
use super::rule::UpdateRule;
use super::schedule::LearningRate;
use super::{OptimError, scales};
use crate::exec::Weights;
use crate::graph::{Graph, Op};
use tch::{Device, Kind, Tensor};

/// The update rule with its schedule and its momentum.
pub(super) struct Updater {
    rule: Box<dyn UpdateRule>,
    pub schedule: Box<dyn LearningRate>,
    /// Momentum buffer of the parameters, flat, in the layout's order.
    pub momentum: Tensor,
    /// Momentum buffer of learned scales, `[quantizers]`, or empty.
    pub scale_momentum: Tensor,
    bn_momentum: f64,
}

/// Momentum of the network's BatchNorms; 0 without any.
fn bn_momentum(graph: &Graph) -> Result<f64, OptimError> {
    let mut momentums = graph.nodes.iter().filter_map(|n| match &n.op {
        Op::BatchNorm(b) => Some(b.momentum),
        _ => None,
    });
    let first = momentums.next().unwrap_or(0.0);
    if momentums.any(|m| m != first) { Err(OptimError::MixedMomentum) } else { Ok(first) }
}

impl Updater {
    /// Without momentum yet, for a network and `learned` scales.
    pub fn new(
        rule: Box<dyn UpdateRule>,
        schedule: Box<dyn LearningRate>,
        graph: &Graph,
        trainable_len: i64,
        learned: i64,
        device: Device,
    ) -> Result<Self, OptimError> {
        Ok(Self {
            rule,
            schedule,
            momentum: Tensor::f_zeros([trainable_len], (Kind::Float, device))?,
            scale_momentum: Tensor::f_zeros([learned], (Kind::Float, device))?,
            bn_momentum: bn_momentum(graph)?,
        })
    }

    /// Whether scales are learned.
    pub fn learns_scales(&self) -> bool {
        self.scale_momentum.size()[0] > 0
    }

    /// Updates the parameters, and the ranges of learned scales, from gradients that were summed at loss scale `scale`.
    pub fn update(
        &self,
        weights: &Weights,
        sums: &GradientBuffer,
        lr: f64,
        scale: f64,
    ) -> Result<(), OptimError> {
        let (gradients, of_scales) = (sums.gradients(), sums.scales());
        if scale != 1.0 {
            let _ = gradients.shallow_clone().f_mul_scalar_(1.0 / scale)?;
            let _ = of_scales.shallow_clone().f_mul_scalar_(1.0 / scale)?;
        }
        let _guard = tch::no_grad_guard();
        self.rule.update(&weights.flat, &self.momentum, &gradients, weights.layout.decayed, lr)?;
        if self.learns_scales() {
            let (rule, momentum) = (&*self.rule, &self.scale_momentum);
            scales::update(rule, &weights.ranges, &weights.qmax, momentum, &of_scales, lr)?;
        }
        Ok(())
    }

    /// Moves BatchNorm's running statistics to the mean of those of `microbatches` microbatches.
    pub fn move_statistics(
        &self,
        weights: &mut Weights,
        sums: &GradientBuffer,
        microbatches: usize,
    ) -> Result<(), OptimError> {
        let mean = sums.statistics().f_div_scalar(microbatches as f64)?;
        let _ = weights
            .buffers
            .f_mul_scalar_(1.0 - self.bn_momentum)?
            .f_add_(&mean.f_mul_scalar(self.bn_momentum)?)?;
        Ok(())
    }
}
