//! The distributed optimizer: it builds the program by the pass list, sums gradients over microbatches and
//! ranks, and updates. Quantization is one field of its [`Strategy`].

mod agreement;
mod buckets;
mod distill;
mod error;
pub mod loss_scale;
mod program;
pub mod qat;
pub mod scales;
pub mod schedule;
mod sgd;
mod statistics;

pub use buckets::{Bucket, plan_buckets};
pub use distill::{Distillation, Teacher};
pub use error::OptimError;
pub use program::{Microbatch, Program, StepOutcome};
pub use sgd::Sgd;
pub use statistics::Placed;

use crate::collective::Collective;
use crate::exec::{Executor, Weights};
use crate::graph::Graph;
use crate::passes;
use loss_scale::LossScale;
use qat::QatSchedule;
use schedule::Schedule;
use tch::Device;

/// Everything that shapes a program besides the network and the update rule. `passes` come from the
/// coordinator's plan.
#[derive(Debug, Clone)]
pub struct Strategy {
    /// Passes on or off, with reasons.
    pub passes: Vec<passes::Decision>,
    /// What the passes need to know.
    pub settings: passes::Settings,
    /// Microbatches in a global batch, over all ranks.
    pub microbatches: usize,
    /// Bucket size in bytes.
    pub bucket_bytes: usize,
    /// Loss scaling; [`LossScale::Off`] outside FP16.
    pub loss_scale: LossScale,
    /// Quantization-aware training, if any.
    pub qat: Option<QatSchedule>,
    /// Follow a floating-point teacher besides the labels.
    pub distillation: Option<Distillation>,
    /// Let gradients through where activations were clipped.
    pub pass_through: bool,
    /// Where tensors live.
    pub device: Device,
}

/// What is minimised: softmax cross-entropy with label smoothing, averaged over the global batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy {
    /// Share of the target spread evenly over all classes.
    pub label_smoothing: f64,
}

/// An optimizer over all ranks of a collective.
pub struct DistributedOptimizer {
    rule: Sgd,
    schedule: Schedule,
    strategy: Strategy,
    collective: Box<dyn Collective>,
}

impl DistributedOptimizer {
    /// An optimizer with an update rule, a learning-rate schedule and a strategy, over a collective.
    pub fn new(rule: Sgd, schedule: Schedule, strategy: Strategy, collective: Box<dyn Collective>) -> Self {
        Self { rule, schedule, strategy, collective }
    }

    /// Runs the pass list over the network and makes the program that trains it; weights start at zero and are
    /// to be initialised or loaded. `watch` sees the graph after each pass.
    pub fn minimize(
        self,
        graph: Graph,
        loss: CrossEntropy,
        watch: impl FnMut(&passes::Pass, &Graph),
    ) -> Result<Program, OptimError> {
        let graph = passes::run(graph, &self.strategy.passes, &self.strategy.settings, watch)?;
        let weights = Weights::zeros(&graph, self.rule.decay_all, self.strategy.device)?;
        let executor = Executor::new(graph, &weights)?;
        Program::new(executor, weights, self.rule, self.schedule, self.strategy, loss, self.collective)
    }
}
