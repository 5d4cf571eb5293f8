//! The distributed optimizer: it builds the program by the pass list, sums gradients over microbatches and
//! ranks, and updates. Quantization is one field of the [`Strategy`].

mod adamw;
mod after_step;
mod agreement;
mod average;
mod buckets;
mod decay;
mod departures;
mod distill;
mod error;
mod export;
mod gradient_buffer;
mod images;
pub mod loss_scale;
mod objective;
mod program;
mod quantization;
mod reducer;
mod rule;
pub mod scales;
pub mod schedule;
mod sgd;
mod snapshot;
mod source;
mod state;
mod statistics;
mod stopwatch;
mod survive;
#[cfg(test)]
mod tests;
mod under_way;
mod updater;

pub use adamw::AdamW;
pub use after_step::AfterStep;
pub use buckets::{Bucket, plan_buckets};
pub use decay::{Decayed, WeightDecay};
pub use distill::Teacher;
pub use error::OptimError;
pub use export::ProgramExportError;
pub use images::Statistics;
pub use program::{Microbatch, Program, StepOutcome};
pub use rule::{CrossEntropy, Loss, Update, UpdateRule};
pub use sgd::Sgd;
pub use snapshot::RestoreError;
pub use state::RuleState;
pub use statistics::{Before, Placed};
pub use stopwatch::{Span, Stage};
pub use survive::Place;

use crate::collective::Collective;
use crate::exec::{Executor, Weights, initialise};
use crate::graph::Graph;
use crate::native;
use crate::passes::{GraphPass, Passes};
use crate::quant::observer::RangeObserver;
use crate::strategy::{Amp, Averaging, Purpose, ReduceType, Strategy};
use loss_scale::LossScale;
use schedule::{LearningRate, Schedule};
use std::sync::Arc;
use tch::Device;

/// How the ranks of a collective share out a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// Microbatches in a global batch, over all ranks.
    pub microbatches: usize,
    /// Bytes of gradients, in FP32, that are reduced in one piece.
    pub bucket_bytes: usize,
    /// The type that gradients have on their way; they are FP32 before and after.
    pub reduce_type: ReduceType,
}

/// An optimizer over all ranks of a collective.
pub struct DistributedOptimizer {
    rule: Box<dyn UpdateRule>,
    strategy: Strategy,
    collective: Box<dyn Collective>,
    schedule: Box<dyn LearningRate>,
    observer: Option<Arc<dyn RangeObserver>>,
    sharing: Sharing,
    loss_scale: LossScale,
    clip_norm: Option<f64>,
    averaging: Option<Averaging>,
    device: Device,
    purpose: Purpose,
    passes: Passes,
    seed: u64,
    zero_gamma: bool,
    overlap: bool,
    int8_forward: bool,
}

impl DistributedOptimizer {
    /// An optimizer with an update rule and a strategy, over a collective: one microbatch per rank and step, 25 MiB
    /// buckets that are reduced in FP32, a constant learning rate of 0.1, no loss scaling, no clipping, no averaging, initial weights of seed 42, on the CPU;
    /// gradients leave for the other ranks while backward still runs.
    pub fn new(rule: impl UpdateRule + 'static, strategy: Strategy, collective: Box<dyn Collective>) -> Self {
        let microbatches = collective.world_size();
        let sharing = Sharing { microbatches, bucket_bytes: 25 << 20, reduce_type: ReduceType::Fp32 };
        Self {
            rule: Box::new(rule),
            strategy,
            collective,
            schedule: Box::new(Schedule::constant(0.1)),
            observer: None,
            sharing,
            loss_scale: LossScale::Off,
            clip_norm: None,
            averaging: None,
            device: Device::Cpu,
            purpose: Purpose::Train,
            passes: Passes::default(),
            seed: 42,
            zero_gamma: false,
            overlap: true,
            int8_forward: false,
        }
    }

    /// With this learning-rate schedule; its number of steps is what parts of the recipe's schedule are parts of.
    pub fn schedule(self, schedule: impl LearningRate + 'static) -> Self {
        Self { schedule: Box::new(schedule), ..self }
    }

    /// With activation ranges that an observer of one's own finds and moves, instead of the recipe's.
    pub fn observer(self, observer: impl RangeObserver + 'static) -> Self {
        Self { observer: Some(Arc::new(observer)), ..self }
    }

    /// With steps shared out like this.
    pub fn sharing(self, sharing: Sharing) -> Self {
        Self { sharing, ..self }
    }

    /// With this loss scaling.
    pub fn loss_scale(self, loss_scale: LossScale) -> Self {
        Self { loss_scale, ..self }
    }

    /// With gradients of a Euclidean norm above `norm`, over all parameters and learned scales, scaled down to it; as they
    /// are where there is none.
    pub fn clip_norm(self, norm: Option<f64>) -> Self {
        Self { clip_norm: norm, ..self }
    }

    /// With an exponential moving average of the weights, BatchNorm's statistics and ranges beside them. It is what is
    /// evaluated, saved as the network and exported once it has begun; training does not depend on it.
    pub fn averaging(self, averaging: Option<Averaging>) -> Self {
        Self { averaging, ..self }
    }

    /// With gradients that leave for the other ranks while backward still runs, or after it. The numbers are the same to the last
    /// bit, so that ranks may differ.
    pub fn overlap(self, overlap: bool) -> Self {
        Self { overlap, ..self }
    }

    /// With the forward of quantized convolutions and linear layers computed on INT8 codes in training: sums of whole numbers, and
    /// gradients as without it. Layers with groups, and those with fewer than 512 rows in a microbatch (pixels of a convolution's
    /// result), stay in floating point. Evaluation does, too.
    pub fn int8_forward(self, int8_forward: bool) -> Self {
        Self { int8_forward, ..self }
    }

    /// With weights and gradients on this device.
    pub fn device(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// With a network for this purpose: one that is only evaluated need not be trained first.
    pub fn purpose(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }

    /// With passes of one's own among Octrain's.
    pub fn passes(self, passes: Passes) -> Self {
        Self { passes, ..self }
    }

    /// With initial weights of this seed, which is to be the same on all ranks.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// With the last BatchNorm of every residual branch starting at 0, so that blocks start as the identity.
    pub fn zero_gamma(self, zero_gamma: bool) -> Self {
        Self { zero_gamma, ..self }
    }

    /// Makes the program that trains a network: the passes that follow from the strategy run over it. Weights are initialised
    /// from the seed, the same on all ranks; others are loaded over them (`Program::weights`, [`Program::restore`]).
    pub fn minimize(self, network: Graph, loss: impl Loss + 'static) -> Result<Program, OptimError> {
        self.minimize_watched(network, loss, |_, _| {})
    }

    /// [`Self::minimize`]; `watch` sees the graph after each pass.
    pub fn minimize_watched(
        self,
        network: Graph,
        loss: impl Loss + 'static,
        watch: impl FnMut(&dyn GraphPass, &Graph),
    ) -> Result<Program, OptimError> {
        if let Some(qat) = &self.strategy.qat {
            qat.check()?;
        }
        let graph = self.passes.run(network.clone(), &self.strategy, self.purpose, watch)?;
        let mut weights = Weights::zeros(&graph, self.device)?;
        initialise(&mut weights, self.seed, self.zero_gamma)?;
        let executor = Executor::new(graph, &weights)?;
        if self.int8_forward {
            ensure_int8(&executor, self.device, self.strategy.amp)?;
        }
        Program::new(self, network, executor, weights, Box::new(loss))
    }
}

/// Whether the forward of a network can be computed on INT8 codes.
fn ensure_int8(executor: &Executor, device: Device, amp: Amp) -> Result<(), OptimError> {
    let refused = |why: &str| Err(OptimError::Int8Forward { why: why.into() });
    if device != Device::Cpu {
        return refused("there are kernels for it on CPUs only");
    }
    if !native::int8_products() {
        return refused(
            "sums of products of 8-bit codes are not exact on this CPU, which has no VNNI or may not use it",
        );
    }
    if amp == Amp::Bf16 && !native::bf16_products() {
        return refused("this CPU has no kernels that make BF16 of sums: take FP32");
    }
    let (able, others) = executor.int8_layers(i64::MAX);
    match (able, others.first()) {
        (0, Some((name, why))) => refused(&format!("no layer of the network can; of `{name}`, {why}")),
        (0, None) => refused("the network has no layer"),
        _ => Ok(()),
    }
}
