//! How a step's sums change the network.

use super::average::Average;
use super::gradient_buffer::GradientBuffer;
use super::loss_scale::LossScale;
use super::rule::{Update, UpdateRule};
use super::schedule::LearningRate;
use super::state::RuleState;
use super::{Decayed, OptimError, scales};
use crate::exec::Weights;
use crate::graph::{Graph, Op};

/// The update rule with its schedule and its state.
pub(super) struct Updater {
    rule: Box<dyn UpdateRule>,
    decayed: Vec<Decayed>,
    pub schedule: Box<dyn LearningRate>,
    /// Largest norm of a gradient that is not scaled down.
    pub clip_norm: Option<f64>,
    pub state: RuleState,
    /// How the loss is scaled, and the state of it.
    pub loss_scale: LossScale,
    learned: i64,
    bn_momentum: f64,
    /// The average of the weights, where one is kept; `new` keeps none.
    pub average: Option<Average>,
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
    /// Before the first update, for a network and `learned` scales. A gradient of a norm above `clip_norm`, if any, is scaled
    /// down to it.
    pub fn new(
        rule: Box<dyn UpdateRule>,
        schedule: Box<dyn LearningRate>,
        (loss_scale, clip_norm): (LossScale, Option<f64>),
        graph: &Graph,
        weights: &Weights,
        learned: i64,
    ) -> Result<Self, OptimError> {
        Ok(Self {
            state: RuleState::new(&*rule, weights.layout.trainable_len, learned, weights.device())?,
            decayed: rule.decay().pieces(&weights.layout),
            rule,
            schedule,
            clip_norm,
            loss_scale,
            learned,
            bn_momentum: bn_momentum(graph)?,
            average: None,
        })
    }

    /// Whether scales are learned.
    pub fn learns_scales(&self) -> bool {
        self.learned > 0
    }

    /// What gradients of the norm `norm`, unscaled, are multiplied by so that they are as long as is allowed at most: as
    /// `torch.nn.utils.clip_grad_norm_` does it.
    fn clipped(&self, norm: f64) -> f64 {
        self.clip_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0))
    }

    /// Updates the parameters, and the ranges of learned scales, from gradients that were summed at the loss scale; `norm`
    /// is that of both, unscaled.
    pub fn update(
        &mut self,
        weights: &Weights,
        sums: &GradientBuffer,
        norm: f64,
        lr: f64,
    ) -> Result<(), OptimError> {
        let (gradients, of_scales) = (sums.gradients(), sums.scales());
        let factor = self.clipped(norm) / self.loss_scale.factor();
        if factor != 1.0 {
            let _ = gradients.shallow_clone().f_mul_scalar_(factor)?;
            let _ = of_scales.shallow_clone().f_mul_scalar_(factor)?;
        }
        let _guard = tch::no_grad_guard();
        let count = self.state.updates + 1;
        self.rule.update(Update {
            weights: &weights.flat,
            buffers: &self.state.buffers,
            gradients: &gradients,
            decayed: &self.decayed,
            lr,
            count,
        })?;
        if self.learns_scales() {
            let update = Update {
                weights: &weights.ranges,
                buffers: &self.state.of_scales,
                gradients: &of_scales,
                decayed: &[],
                lr,
                count,
            };
            scales::update(&*self.rule, &weights.qmax, update)?;
        }
        self.state.updates = count;
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
