//! The program that trains: forward and backward over this rank's microbatches, one reduction, one update.

use super::average::Average;
use super::departures::Departures;
use super::distill::Teacher;
use super::gradient_buffer::GradientBuffer;
use super::loss_scale::LossScale;
use super::objective::Objective;
use super::quantization::Quantization;
use super::reducer::{Reducer, cause};
use super::rule::Loss;
use super::schedule::LearningRate;
use super::source::Source;
use super::state::{RuleState, StateError};
use super::stopwatch::{Span, Stage, Stopwatch, total};
use super::under_way::UnderWay;
use super::updater::Updater;
use super::{AfterStep, DistributedOptimizer, OptimError};
use crate::checkpoint::State;
use crate::collective::{Collective, CollectiveError};
use crate::data::rng::CounterRng;
use crate::exec::{Evaluator, ExecError, Executor, Mode, Pass, Prepared, Watch, Weights};
use crate::graph::Graph;
use crate::native::Upload;
use crate::strategy::{Phase, Strategy};
use std::sync::Arc;
use std::time::Duration;
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
    /// Euclidean norm of the gradient, that of learned scales among it, unscaled and before it is clipped.
    pub grad_norm: f64,
    /// Loss scale used.
    pub scale: f64,
    /// The update was skipped because gradients overflowed FP16.
    pub skipped: bool,
    /// What all ranks do after this step, with equal state: the most that any of them was asked to.
    pub after: AfterStep,
    /// Where this rank's time went, without a gap.
    pub spans: Vec<Span>,
}

impl StepOutcome {
    /// Time of this rank in a stage of the step.
    pub fn time(&self, stage: Stage) -> Duration {
        total(&self.spans, stage)
    }
}

/// A network under training.
pub struct Program {
    pub(super) executor: Arc<Executor>,
    /// Parameters, statistics, ranges: those that are trained.
    pub weights: Weights,
    /// What the network was made of.
    pub(super) source: Source,
    objective: Objective,
    gradients: GradientBuffer,
    pub(super) reducer: Reducer,
    pub(super) updater: Updater,
    pub(super) quantization: Quantization,
    /// Steps done.
    pub global_step: u64,
    /// Keys what is left out at random.
    seed: u64,
    /// Whether steps compute the forward of quantized layers on INT8 codes.
    int8_forward: bool,
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
        let (layout, device) = (&weights.layout, weights.device());
        let learned = match &o.strategy.qat {
            Some(q) if q.learn_scales => layout.quantizers.len() as i64,
            _ => 0,
        };
        let graph = executor.graph();
        let room = || Weights::zeros(graph, device);
        let average = o.averaging.map(|averaging| Ok::<_, ExecError>(Average::new(averaging, room()?)));
        let scaling = (o.loss_scale, o.clip_norm);
        let mut updater = Updater::new(o.rule, o.schedule, scaling, graph, &weights, learned)?;
        updater.average = average.transpose()?;
        Ok(Self {
            objective: Objective { loss, teacher: None },
            gradients: GradientBuffer::new(layout, learned, &o.sharing, device)?,
            updater,
            quantization: Quantization::new(&o.strategy, o.observer)?,
            source: Source { graph: network, passes: o.passes, strategy: o.strategy },
            reducer: Reducer { collective: o.collective.into(), sharing: o.sharing, overlaps: o.overlap },
            executor: Arc::new(executor),
            weights,
            global_step: 0,
            seed: o.seed,
            int8_forward: o.int8_forward,
        })
    }

    /// The network that is trained, after its passes.
    pub fn graph(&self) -> &Graph {
        self.executor.graph()
    }

    /// The average of the weights; none where none is kept, or before its first update.
    pub fn average(&self) -> Option<&Weights> {
        self.updater.average.as_ref().and_then(Average::get)
    }

    /// The network's numbers as they are evaluated, saved and exported: the average of the weights where there is one, else
    /// the weights.
    pub fn network(&self) -> &Weights {
        self.average().unwrap_or(&self.weights)
    }

    /// The network as it is now, by [`Self::network`], to run without gradients until the next step.
    pub fn evaluator(&self, mode: Mode) -> Result<Evaluator, ExecError> {
        self.evaluator_of(self.network(), mode)
    }

    /// The network with other numbers of its own: [`Self::weights`] where they are averaged besides.
    pub fn evaluator_of(&self, weights: &Weights, mode: Mode) -> Result<Evaluator, ExecError> {
        Evaluator::new(self.executor.clone(), weights, mode)
    }

    /// How many layers compute the forward of a microbatch of `batch` images on INT8 codes, and the names of the others with why they do
    /// not; none where steps do not compute on codes.
    pub fn int8_layers(&self, batch: usize) -> Option<(usize, Vec<(String, String)>)> {
        self.int8_forward.then(|| self.executor.int8_layers(i64::try_from(batch).unwrap_or(i64::MAX)))
    }

    /// The collective all ranks share.
    pub fn collective(&self) -> &dyn Collective {
        &*self.reducer.collective
    }

    /// The orderly end of that collective, after which nothing can be reduced any more; see [`Collective::finish`].
    pub fn finish(&self) -> Result<(), CollectiveError> {
        self.reducer.collective.finish()
    }

    /// The end of that collective after a failure; see [`Collective::abandon`].
    pub fn abandon(&self) {
        self.reducer.collective.abandon();
    }

    /// The strategy the program was made by.
    pub fn strategy(&self) -> &Strategy {
        &self.source.strategy
    }

    /// Where its weights and gradients live.
    pub fn device(&self) -> Device {
        self.weights.device()
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
        if self.strategy().qat.as_ref().is_none_or(|qat| qat.distillation.is_none()) {
            return Err(OptimError::TeacherWithoutDistillation);
        }
        teacher.fits(self.graph())?;
        self.objective.teacher = Some(teacher);
        Ok(())
    }

    /// Whether there is such a network.
    pub fn follows(&self) -> bool {
        self.objective.teacher.is_some()
    }

    /// The gradients of the last step, reduced, unscaled and clipped, as the update rule has left them (it may have added weight
    /// decay), in the order of the trainable parameters.
    pub fn gradients(&self) -> &[Tensor] {
        self.gradients.views()
    }

    /// What step `step` does.
    pub fn phase(&self, step: u64) -> Phase {
        self.quantization.phase(self.strategy(), step, self.schedule().total_steps())
    }

    /// One optimizer step from this rank's local microbatches of the global batch, in the sampler's order. Where activation
    /// ranges are not known, they are calibrated before on this step's own images, at most as many as
    /// `Qat::calibration_images`; whoever has more, or others, calls [`Self::calibrate_on`] or [`Self::calibrate`] first.
    ///
    /// # Errors
    /// When `Qat::bn_images` asks for BatchNorm's statistics anew before this step and nobody has taken them, when the loss, the
    /// gradients or a range are not finite, besides those of a forward and a reduction. All of them come before the update:
    /// weights, statistics, the rule's buffers, the loss scale and the number of the step are what they were, and so are ranges
    /// that were known. Ranges that the step itself has calibrated before its forward, all or none, stay. Only where libtorch or
    /// a device fails amid the update (it runs out of memory, say) is a part of it done.
    pub fn step(&mut self, microbatches: &[Microbatch]) -> Result<StepOutcome, OptimError> {
        self.step_watched(microbatches, AfterStep::GoOn, None)
    }

    /// [`Self::step`]; `after` asks all ranks to stop after it, or to regroup, and `watch` sees every node's value.
    pub fn step_watched(
        &mut self,
        microbatches: &[Microbatch],
        after: AfterStep,
        watch: Option<&mut Watch>,
    ) -> Result<StepOutcome, OptimError> {
        let mut time = Stopwatch::start();
        self.reducer.check_local(microbatches.len())?;
        self.prepare(microbatches)?;
        let phase = self.phase(self.global_step);
        let lr = self.schedule().at(self.global_step);
        let scale = self.updater.loss_scale.factor();
        let reduces = self.reducer.overlaps && !self.reducer.alone();
        let under_way = self.accumulate(microbatches, phase, (after, reduces), watch, &mut time)?;
        if !self.reducer.alone() {
            // What is waited for from here on is the others.
            if let Err(e) = self.collective().ready("all_reduce") {
                return Err(cause(under_way, e.into()));
            }
            time.lap(Stage::Backward);
        }
        self.reducer.reduce(&self.gradients, under_way, phase.observe)?;
        time.lap(Stage::Reduce);

        let _guard = tch::no_grad_guard();
        let observed = match phase.observe {
            true => self.quantization.wanted(&self.weights, &self.gradients.record),
            false => vec![],
        };
        // What decides about the update is read at once.
        let (sums, norm, observed) = self.gradients.read(&observed)?;
        let loss = sums.loss / self.reducer.sharing.microbatches as f64;
        if !loss.is_finite() {
            return Err(OptimError::Loss { loss, step: self.global_step, lr });
        }
        let mut norm = norm / scale;
        if self.updater.clip_norm.is_some() && norm.is_finite() {
            time.lap(Stage::Update);
            norm = self.reducer.agreed(norm, self.device())?;
            time.lap(Stage::Reduce);
        }
        let mut outcome = StepOutcome {
            step: self.global_step,
            loss,
            top1: sums.correct / sums.images,
            lr,
            grad_norm: norm,
            scale,
            skipped: !norm.is_finite(),
            after: AfterStep::of_sum(sums.after),
            spans: Vec::new(),
        };
        if outcome.skipped {
            match self.updater.loss_scale {
                LossScale::Off => return Err(OptimError::Gradients { loss, step: self.global_step }),
                s if !s.may_skip() => return Err(OptimError::ScaleFloor { scale }),
                _ => outcome.grad_norm = 0.0,
            }
        } else {
            self.update(phase, &observed, norm, lr)?;
        }
        if let Some(average) = &mut self.updater.average {
            average.after(self.global_step, &self.weights)?;
        }
        self.updater.loss_scale = self.updater.loss_scale.next(!outcome.skipped);
        self.global_step += 1;
        time.lap(Stage::Update);
        outcome.spans = time.spans();
        Ok(outcome)
    }

    /// Goes through this rank's part of the step that has just failed, or that comes next, to find where in the network its
    /// numbers cease to be finite, or what else is wrong with them: forward and backward, operator by operator, with every node's
    /// value shown to `watch`, a microbatch after another. Ranks may call it alone: nothing is reduced, and nothing is updated.
    /// It takes room for as many gradients again. Ranges are not calibrated: one that is not known is an error.
    pub fn watch_step(&mut self, microbatches: &[Microbatch], watch: &mut Watch) -> Result<(), OptimError> {
        self.executor.ensure_ranges(&self.weights)?;
        let phase = self.phase(self.global_step);
        // A buffer of its own: what has left the other one in the step that failed may still be on its way.
        let own = self.gradients.another(&self.weights.layout, self.device())?;
        let shared = std::mem::replace(&mut self.gradients, own);
        let watched = self.accumulate(
            microbatches,
            phase,
            (AfterStep::GoOn, false),
            Some(watch),
            &mut Stopwatch::start(),
        );
        self.gradients = shared;
        watched.map(drop)
    }

    /// What a recipe wants to be known before a step: ranges, and, where they freeze here, BatchNorm's statistics anew.
    fn prepare(&mut self, microbatches: &[Microbatch]) -> Result<(), OptimError> {
        if self.strategy().qat.is_none() {
            return Ok(());
        }
        let step = self.global_step;
        if let Some(images) = self.due_batch_norm(false)
            && self.quantization.estimated != Some(step)
        {
            return Err(OptimError::StatisticsDue { images, step });
        }
        match self.executor.ensure_ranges(&self.weights) {
            Err(ExecError::NoRange(_)) => self.calibrate_by_step(microbatches),
            known => Ok(known?),
        }
    }

    /// Gradients, statistics and loss of this rank's microbatches into the buffer that is reduced, and what it wants to be done
    /// after the step. With `reduces`, buckets leave while the last backward still runs; those are returned.
    fn accumulate(
        &mut self,
        microbatches: &[Microbatch],
        phase: Phase,
        (after, reduces): (AfterStep, bool),
        mut watch: Option<&mut Watch>,
        time: &mut Stopwatch,
    ) -> Result<Vec<UnderWay>, OptimError> {
        let qat = self.source.strategy.qat.as_ref();
        let mode = Mode {
            batch_stats: phase.batch_stats,
            quantize: qat.is_some(),
            observe: phase.observe,
            unclipped: qat.is_some_and(|q| q.unclipped_straight_through),
            draws: None,
            int8: self.int8_forward,
        };
        let distillation = qat.and_then(|q| q.distillation);
        let mut prepared = Prepared::new(self.executor.graph(), &self.weights, mode, true)?;
        let mut wanted: Vec<Tensor> = prepared.leaves.iter().map(Tensor::shallow_clone).collect();
        if self.updater.learns_scales() {
            prepared = prepared.learning_scales()?;
            wanted.push(prepared.scales.shallow_clone());
        }
        self.gradients.clear()?;
        let factor = self.updater.loss_scale.factor() / self.reducer.sharing.microbatches as f64;
        let first = self.reducer.place().local_microbatches(self.reducer.sharing.microbatches).start;
        let mut under_way = Vec::new();
        for (i, m) in microbatches.iter().enumerate() {
            let mode = Mode { draws: Some(self.draws((first + i) as u64)), ..mode };
            let (weights, record) = (&self.weights, &mut self.gradients.record);
            let pass = Pass { prepared: &prepared, weights, mode, record };
            let watch = watch.as_deref_mut().map(|w| w as &mut Watch);
            let logits = self.executor.forward(m.images, pass, watch)?;
            let loss = self.objective.of(distillation, &logits, m)?;
            time.lap(Stage::Forward);
            let scaled = loss.f_mul_scalar(factor)?;
            let leaves = (reduces && i + 1 == microbatches.len()).then_some(&prepared.leaves);
            let (buffer, collective) = (&mut self.gradients, &self.reducer.collective);
            let departures =
                leaves.map(|leaves| Departures::begin(leaves, buffer, collective)).transpose()?;
            let grads = Tensor::f_run_backward(&[scaled], &wanted, false, false)?;
            let _guard = tch::no_grad_guard();
            match departures {
                Some(departures) => {
                    let names = self.weights.layout.trainable.iter().map(|slot| slot.name.clone());
                    under_way = departures.end(names)?;
                    self.gradients.add_scales(&grads)?;
                }
                None => self.gradients.add(&grads)?,
            }
            if phase.batch_stats {
                self.gradients.record.end_microbatch()?;
            }
            let right = logits.f_argmax(1, false)?.f_eq_tensor(m.labels)?;
            self.gradients.add_results(&loss, &right.f_sum(Kind::Int64)?, m.labels.size()[0])?;
            time.lap(Stage::Backward);
        }
        let _guard = tch::no_grad_guard();
        self.gradients.put(after)?;
        time.lap(Stage::Backward);
        Ok(under_way)
    }

    /// Key of what is left out at random in this microbatch of the global batch of this step.
    fn draws(&self, microbatch: u64) -> u64 {
        let mut rng = CounterRng::new(self.seed, [self.global_step, microbatch]);
        u64::from(rng.bits()) << 32 | u64::from(rng.bits())
    }

    fn update(&mut self, phase: Phase, observed: &[f32], norm: f64, lr: f64) -> Result<(), OptimError> {
        // Whatever can refuse comes first: on error nothing was updated.
        let ranges = match phase.observe {
            true => self.quantization.moved(&self.weights, observed)?,
            false => None,
        };
        let at = |source| ExecError::Native { node: "the quantizers' ranges".into(), source };
        let ranges = ranges.map(|ranges| Upload::begin(&ranges, self.device())).transpose().map_err(at)?;
        self.updater.update(&self.weights, &self.gradients, norm, lr)?;
        if phase.batch_stats {
            let microbatches = self.reducer.sharing.microbatches;
            self.updater.move_statistics(&mut self.weights, &self.gradients, microbatches)?;
        }
        if let Some(ranges) = ranges {
            self.weights.ranges.f_copy_(&ranges.arrived().map_err(at)?)?;
        }
        Ok(())
    }
}
