//! The program that trains: forward and backward over this rank's microbatches, one reduction, one update.

use super::distill::Teacher;
use super::gradient_buffer::{GradientBuffer, Sums};
use super::loss_scale::LossScale;
use super::rule::Loss;
use super::schedule::LearningRate;
use super::state::{RuleState, StateError};
use super::updater::Updater;
use super::{DistributedOptimizer, OptimError, Sharing, distill};
use crate::checkpoint::State;
use crate::collective::{Collective, CollectiveError, ReduceOp};
use crate::exec::{Evaluator, ExecError, Executor, Mode, Pass, Prepared, Record, Watch, Weights};
use crate::graph::Graph;
use crate::passes::Passes;
use crate::quant::observer::{RangeObserver, RecipeObserver};
use crate::strategy::{Phase, Strategy};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Images and labels of one microbatch.
pub struct Microbatch<'a> {
    /// `[b, C, H, W]`, FP32.
    pub images: &'a Tensor,
    /// `[b]`, 64-bit integers.
    pub labels: &'a Tensor,
}

/// What a step did; equal on all ranks but for the times.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// Global step, 0-based.
    pub step: u64,
    /// Mean loss over the global batch.
    pub loss: f64,
    /// Share of the global batch predicted right.
    pub top1: f64,
    /// Learning rate used.
    pub lr: f64,
    /// Euclidean norm of the gradient, unscaled.
    pub grad_norm: f64,
    /// Loss scale used.
    pub scale: f64,
    /// The update was skipped because gradients overflowed FP16.
    pub skipped: bool,
    /// Some rank was asked to stop: all stop after this step, with equal state.
    pub stop: bool,
    /// Forward and backward, before any communication.
    pub compute: Duration,
    /// Waiting for and doing the reduction.
    pub reduce: Duration,
}

/// A network under training.
pub struct Program {
    pub(super) executor: Arc<Executor>,
    /// Parameters, statistics, ranges.
    pub weights: Weights,
    pub(super) record: Record,
    sums: GradientBuffer,
    updater: Updater,
    loss: Box<dyn Loss>,
    /// Moves the ranges; none without quantization.
    pub(super) observer: Option<Arc<dyn RangeObserver>>,
    teacher: Option<Teacher>,
    pub(super) strategy: Strategy,
    /// The network before any pass, and the passes: what other purposes make their graphs of.
    pub(super) source: (Graph, Passes),
    sharing: Sharing,
    pub(super) device: Device,
    /// State of the loss scale.
    pub loss_scale: LossScale,
    /// Steps done.
    pub global_step: u64,
    pub(super) collective: Box<dyn Collective>,
}

impl Program {
    pub(super) fn new(
        optimizer: DistributedOptimizer,
        network: Graph,
        executor: Executor,
        weights: Weights,
        loss: Box<dyn Loss>,
    ) -> Result<Self, OptimError> {
        let o = optimizer;
        if o.observer.is_some() && o.strategy.qat.is_none() {
            return Err(OptimError::ObserverWithoutQat);
        }
        let layout = &weights.layout;
        let learned = match &o.strategy.qat {
            Some(q) if q.learn_scales => layout.quantizers.len() as i64,
            _ => 0,
        };
        let recipe = |qat| Arc::new(RecipeObserver::from(qat)) as Arc<dyn RangeObserver>;
        let graph = executor.graph();
        Ok(Self {
            record: Record::new(layout, o.device)?,
            sums: GradientBuffer::new(layout, learned, o.sharing.bucket_bytes, o.device)?,
            updater: Updater::new(o.rule, o.schedule, graph, layout.trainable_len, learned, o.device)?,
            observer: o.strategy.qat.as_ref().map(|qat| o.observer.unwrap_or_else(|| recipe(qat))),
            teacher: None,
            source: (network, o.passes),
            strategy: o.strategy,
            sharing: o.sharing,
            device: o.device,
            loss_scale: o.loss_scale,
            loss,
            executor: Arc::new(executor),
            weights,
            global_step: 0,
            collective: o.collective,
        })
    }

    /// The network that is trained, after its passes.
    pub fn graph(&self) -> &Graph {
        self.executor.graph()
    }

    /// The network as it is now, to run without gradients until the next step.
    pub fn evaluator(&self, mode: Mode) -> Result<Evaluator, ExecError> {
        Evaluator::new(self.executor.clone(), &self.weights, mode)
    }

    /// The collective all ranks share.
    pub fn collective(&self) -> &dyn Collective {
        &*self.collective
    }

    /// The orderly end of that collective, after which nothing can be reduced any more; see [`Collective::finish`].
    pub fn finish(&mut self) -> Result<(), CollectiveError> {
        self.collective.finish()
    }

    /// The end of that collective after a failure; see [`Collective::abandon`].
    pub fn abandon(&mut self) {
        self.collective.abandon();
    }

    /// The strategy the program was made by.
    pub fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    /// Where its weights and gradients live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The learning-rate schedule.
    pub fn schedule(&self) -> &dyn LearningRate {
        &*self.updater.schedule
    }

    /// What the update rule keeps from step to step.
    pub fn state(&self) -> &RuleState {
        &self.updater.state
    }

    /// What the update rule keeps, by the names that checkpoints have for it.
    pub(super) fn optimizer_state(&self) -> Result<State, OptimError> {
        Ok(self.state().to_state(&self.weights.layout)?)
    }

    /// Takes what [`Self::optimizer_state`] gave, of the same network and rule.
    pub(super) fn load_optimizer_state(&mut self, state: &State) -> Result<(), StateError> {
        self.updater.state.load(&self.weights.layout, state)
    }

    /// The network whose logits training follows besides the labels.
    ///
    /// # Errors
    /// When the strategy's recipe has no distillation, so that nothing would be learned from it, or when the teacher is one for
    /// images of another shape or for another number of classes.
    pub fn follow(&mut self, teacher: Teacher) -> Result<(), OptimError> {
        if self.strategy.qat.as_ref().is_none_or(|qat| qat.distillation.is_none()) {
            return Err(OptimError::TeacherWithoutDistillation);
        }
        teacher.fits(self.graph())?;
        self.teacher = Some(teacher);
        Ok(())
    }

    /// The gradients of the last step, reduced and unscaled, as the update has left them (weight decay added), in
    /// the order of the trainable parameters.
    pub fn gradients(&self) -> &[Tensor] {
        self.sums.views()
    }

    /// What step `step` does.
    pub fn phase(&self, step: u64) -> Phase {
        let plain = Phase { observe: false, batch_stats: true };
        match (&self.strategy.qat, &self.observer) {
            (Some(q), Some(o)) => q.phase(step, self.schedule().total_steps(), o.holds()),
            _ => plain,
        }
    }

    /// One optimizer step from this rank's local microbatches of the global batch, in the sampler's order. On error nothing was
    /// updated.
    pub fn step(&mut self, microbatches: &[Microbatch]) -> Result<StepOutcome, OptimError> {
        self.step_watched(microbatches, false, None)
    }

    /// [`Self::step`]; `stop` asks all ranks to stop after it, and `watch` sees every node's value.
    pub fn step_watched(
        &mut self,
        microbatches: &[Microbatch],
        stop: bool,
        watch: Option<&mut Watch>,
    ) -> Result<StepOutcome, OptimError> {
        let started = Instant::now();
        self.check_local_microbatches(microbatches.len())?;
        let phase = self.phase(self.global_step);
        let lr = self.schedule().at(self.global_step);
        let scale = self.loss_scale.factor();
        self.accumulate(microbatches, phase, stop, watch)?;
        let compute = started.elapsed();
        self.reduce(phase)?;
        let reduce = started.elapsed() - compute;

        let _guard = tch::no_grad_guard();
        let sums = self.sums.sums()?;
        let loss = sums.loss / self.sharing.microbatches as f64;
        if !loss.is_finite() {
            return Err(OptimError::Loss { loss, step: self.global_step, lr });
        }
        let norm = self.sums.gradients().f_norm()?.f_double_value(&[])? / scale;
        let scales_finite = self.sums.scales().f_sum(Kind::Double)?.f_double_value(&[])?.is_finite();
        let mut outcome = StepOutcome {
            step: self.global_step,
            loss,
            top1: sums.correct / sums.images,
            lr,
            grad_norm: norm,
            scale,
            skipped: !(norm.is_finite() && scales_finite),
            stop: sums.stop > 0.0,
            compute,
            reduce,
        };
        if outcome.skipped {
            match self.loss_scale {
                LossScale::Off => return Err(OptimError::Gradients { loss, step: self.global_step }),
                s if !s.may_skip() => return Err(OptimError::ScaleFloor { scale }),
                _ => outcome.grad_norm = 0.0,
            }
        } else {
            self.update(phase, lr, scale)?;
        }
        self.loss_scale = self.loss_scale.next(!outcome.skipped);
        self.global_step += 1;
        Ok(outcome)
    }

    fn check_local_microbatches(&self, got: usize) -> Result<(), OptimError> {
        let (place, all) = (self.place(), self.sharing.microbatches);
        let local = place.local_microbatches(all).len();
        if got == local { Ok(()) } else { Err(OptimError::LocalMicrobatches { place, got, all, local }) }
    }

    /// The loss of one microbatch, labels' and teacher's.
    fn loss(&self, logits: &Tensor, m: &Microbatch) -> Result<Tensor, OptimError> {
        let loss = self.loss.loss(logits, m.labels)?;
        match (self.strategy.qat.as_ref().and_then(|q| q.distillation), &self.teacher) {
            (None, _) => Ok(loss),
            (Some(d), Some(teacher)) => Ok(distill::loss(d, &loss, logits, &teacher.logits(m.images)?)?),
            (Some(_), None) => Err(OptimError::NoTeacher),
        }
    }

    /// Gradients, statistics and loss of this rank's microbatches into the buffer that is reduced.
    fn accumulate(
        &mut self,
        microbatches: &[Microbatch],
        phase: Phase,
        stop: bool,
        mut watch: Option<&mut Watch>,
    ) -> Result<(), OptimError> {
        let quantize = self.strategy.qat.is_some();
        if quantize {
            self.executor.ensure_ranges(&self.weights)?;
        }
        let mode = Mode {
            batch_stats: phase.batch_stats,
            quantize,
            observe: phase.observe,
            unclipped: self.strategy.qat.as_ref().is_some_and(|q| q.unclipped_straight_through),
        };
        let mut prepared = Prepared::new(self.executor.graph(), &self.weights, mode, true)?;
        let mut wanted: Vec<Tensor> = prepared.leaves.iter().map(Tensor::shallow_clone).collect();
        if self.updater.learns_scales() {
            prepared = prepared.learning_scales()?;
            wanted.push(prepared.scales.shallow_clone());
        }
        self.record.clear()?;
        self.sums.clear()?;
        let mut sums = Sums { stop: f64::from(u8::from(stop)), ..Sums::default() };
        let factor = self.loss_scale.factor() / self.sharing.microbatches as f64;
        for m in microbatches {
            let pass = Pass { prepared: &prepared, weights: &self.weights, mode, record: &mut self.record };
            let watch = watch.as_deref_mut().map(|w| w as &mut Watch);
            let logits = self.executor.forward(m.images, pass, watch)?;
            let loss = self.loss(&logits, m)?;
            let grads = Tensor::f_run_backward(&[loss.f_mul_scalar(factor)?], &wanted, false, false)?;
            let _guard = tch::no_grad_guard();
            self.sums.add(&grads)?;
            if phase.batch_stats {
                self.record.end_microbatch()?;
            }
            sums.loss += loss.f_double_value(&[])?;
            let right = logits.f_argmax(1, false)?.f_eq_tensor(m.labels)?;
            sums.correct += right.f_sum(Kind::Int64)?.f_int64_value(&[])? as f64;
            sums.images += m.labels.size()[0] as f64;
        }
        let _guard = tch::no_grad_guard();
        self.sums.put(&self.record, sums)?;
        Ok(())
    }

    fn reduce(&mut self, phase: Phase) -> Result<(), OptimError> {
        self.sums.reduce(&*self.collective)?;
        if phase.observe && !self.weights.layout.quantizers.is_empty() {
            self.collective.all_reduce(&self.record.maxima, ReduceOp::Max)?;
        }
        Ok(())
    }

    fn update(&mut self, phase: Phase, lr: f64, scale: f64) -> Result<(), OptimError> {
        // Whatever can refuse comes first: on error nothing was updated.
        let ranges = match &self.observer {
            Some(observer) if phase.observe => {
                let seen = Record::host_maxima(&self.record.maxima, &self.weights.layout)?;
                let old = self.weights.ranges_host()?;
                let moved =
                    old.iter().zip(seen).map(|(old, seen)| old.map_or(seen, |old| observer.moved(old, seen)));
                let new: Vec<f32> = moved.collect();
                let names = &self.weights.layout.quantizers;
                names.iter().zip(&new).try_for_each(|(name, &range)| OptimError::check_range(name, range))?;
                Some(Tensor::f_from_slice(&new)?)
            }
            _ => None,
        };
        self.updater.update(&self.weights, &self.sums, lr, scale)?;
        if phase.batch_stats {
            self.updater.move_statistics(&mut self.weights, &self.sums, self.sharing.microbatches)?;
        }
        if let Some(ranges) = ranges {
            self.weights.ranges.f_copy_(&ranges)?;
        }
        Ok(())
    }
}
