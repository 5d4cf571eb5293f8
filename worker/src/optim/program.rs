//! The program that trains: forward and backward over this rank's microbatches, one reduction, one update.

use super::buckets::{Bucket, plan_buckets};
use super::distill::Teacher;
use super::loss_scale::LossScale;
use super::schedule::Schedule;
use super::{CrossEntropy, DistributedOptimizer, OptimError, Sgd, Sharing, distill, scales};
use crate::collective::{Collective, CollectiveError, ReduceOp};
use crate::exec::{Executor, Mode, Prepared, Record, Watch, Weights, WeightsLayout};
use crate::graph::Op;
use crate::quant::observer;
use crate::strategy::{Phase, Strategy};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Reduction, Tensor};

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
    pub(super) executor: Executor,
    /// Parameters, statistics, ranges.
    pub weights: Weights,
    velocity: Tensor,
    /// Momentum of learned scales, `[quantizers]`, or empty.
    scale_velocity: Tensor,
    /// What ranks add up: gradients, BatchNorm's statistics, gradients of learned scales, [`EXTRA`].
    comm: Tensor,
    gradients: Vec<Tensor>,
    buckets: Vec<Bucket>,
    pub(super) record: Record,
    teacher: Option<Teacher>,
    bn_momentum: f64,
    rule: Sgd,
    schedule: Schedule,
    pub(super) strategy: Strategy,
    sharing: Sharing,
    pub(super) device: Device,
    loss: CrossEntropy,
    /// State of the loss scale.
    pub loss_scale: LossScale,
    /// Steps done.
    pub global_step: u64,
    pub(super) collective: Box<dyn Collective>,
}

/// Elements behind gradients and statistics in the communication buffer: loss, correct predictions, images, and
/// how many ranks were asked to stop.
const EXTRA: i64 = 4;

impl Program {
    pub(super) fn new(
        optimizer: DistributedOptimizer,
        executor: Executor,
        weights: Weights,
        loss: CrossEntropy,
    ) -> Result<Self, OptimError> {
        let DistributedOptimizer {
            rule, strategy, collective, schedule, sharing, loss_scale, device, ..
        } = optimizer;
        let mut momenta = executor.graph().nodes.iter().filter_map(|n| match &n.op {
            Op::BatchNorm(b) => Some(b.momentum),
            _ => None,
        });
        let bn_momentum = momenta.next().unwrap_or(0.0);
        if momenta.any(|m| m != bn_momentum) {
            return Err(OptimError::MixedMomentum);
        }
        let layout = &weights.layout;
        let learned = match &strategy.qat {
            Some(q) if q.learn_scales => layout.quantizers.len() as i64,
            _ => 0,
        };
        let tail = layout.buffers_len + learned + EXTRA;
        let f32s = (Kind::Float, device);
        let comm = Tensor::f_zeros([layout.trainable_len + tail], f32s)?;
        Ok(Self {
            velocity: Tensor::f_zeros([layout.trainable_len], f32s)?,
            scale_velocity: Tensor::f_zeros([learned], f32s)?,
            teacher: None,
            gradients: WeightsLayout::views(&comm, &layout.trainable),
            buckets: plan_buckets(layout, tail, sharing.bucket_bytes),
            record: Record::new(layout, device)?,
            comm,
            bn_momentum,
            rule,
            schedule,
            loss_scale,
            strategy,
            sharing,
            device,
            loss,
            executor,
            weights,
            global_step: 0,
            collective,
        })
    }

    /// The executor, e.g. for evaluation.
    pub fn executor(&self) -> &Executor {
        &self.executor
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
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The momentum buffer, flat, in the order of the trainable parameters.
    pub fn velocity(&self) -> &Tensor {
        &self.velocity
    }

    /// The momentum of learned scales, in the order of the quantizers; empty where none are learned.
    pub fn scale_velocity(&self) -> &Tensor {
        &self.scale_velocity
    }

    /// The network whose logits training follows besides the labels, loaded with its weights.
    pub fn follow(&mut self, teacher: Teacher) {
        self.teacher = Some(teacher);
    }

    /// Gradients of learned scales in the communication buffer.
    fn scale_gradients(&self) -> Tensor {
        let layout = &self.weights.layout;
        let learned = self.scale_velocity.size()[0];
        self.comm.narrow(0, layout.trainable_len + layout.buffers_len, learned)
    }

    /// What follows them.
    fn extra(&self) -> Tensor {
        self.comm.narrow(0, self.comm.size()[0] - EXTRA, EXTRA)
    }

    /// The gradients of the last step, reduced and unscaled, as the update has left them (weight decay added), in
    /// the order of the trainable parameters.
    pub fn gradients(&self) -> &[Tensor] {
        &self.gradients
    }

    /// What step `step` does.
    pub fn phase(&self, step: u64) -> Phase {
        let plain = Phase { observe: false, batch_stats: true };
        self.strategy.qat.as_ref().map_or(plain, |q| q.phase(step, self.schedule.total_steps))
    }

    /// One optimizer step from this rank's share of the global batch, in the sampler's order. `stop` asks all
    /// ranks to stop after it. On error nothing was updated.
    pub fn step(
        &mut self,
        microbatches: &[Microbatch],
        stop: bool,
        watch: Option<&mut Watch>,
    ) -> Result<StepOutcome, OptimError> {
        let started = Instant::now();
        self.check_share(microbatches.len())?;
        let phase = self.phase(self.global_step);
        let lr = self.schedule.at(self.global_step);
        let scale = self.loss_scale.factor();
        self.accumulate(microbatches, phase, scale, stop, watch)?;
        let compute = started.elapsed();
        self.reduce(phase)?;
        let reduce = started.elapsed() - compute;

        let _guard = tch::no_grad_guard();
        let layout = &self.weights.layout;
        let [loss_sum, correct, images, stop] =
            Vec::<f32>::try_from(&self.extra().f_to_device(Device::Cpu)?)?[..]
        else {
            unreachable!("EXTRA is 4")
        };
        let loss = f64::from(loss_sum) / self.sharing.microbatches as f64;
        if !loss.is_finite() {
            return Err(OptimError::Loss { loss, step: self.global_step, lr });
        }
        let gradients = self.comm.narrow(0, 0, layout.trainable_len);
        let norm = gradients.f_norm()?.f_double_value(&[])? / scale;
        let scales_finite = self.scale_gradients().f_sum(Kind::Double)?.f_double_value(&[])?.is_finite();
        let mut outcome = StepOutcome {
            step: self.global_step,
            loss,
            top1: f64::from(correct) / f64::from(images),
            lr,
            grad_norm: norm,
            scale,
            skipped: !(norm.is_finite() && scales_finite),
            stop: stop > 0.0,
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
            self.update(&gradients, phase, lr, scale)?;
        }
        self.loss_scale = self.loss_scale.next(!outcome.skipped);
        self.global_step += 1;
        Ok(outcome)
    }

    fn check_share(&self, got: usize) -> Result<(), OptimError> {
        let (rank, world, all) =
            (self.collective.rank(), self.collective.world_size(), self.sharing.microbatches);
        let share = (rank + 1) * all / world - rank * all / world;
        if got == share { Ok(()) } else { Err(OptimError::Share { rank, world, got, all, share }) }
    }

    /// Gradients, statistics and loss of this rank's microbatches into the communication buffer.
    fn accumulate(
        &mut self,
        microbatches: &[Microbatch],
        phase: Phase,
        scale: f64,
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
            pass_through: self.strategy.qat.as_ref().is_some_and(|q| q.pass_through),
        };
        let mut prepared = Prepared::new(self.executor.graph(), &self.weights, quantize, true)?;
        let mut wanted: Vec<Tensor> = prepared.leaves.iter().map(Tensor::shallow_clone).collect();
        if self.learns_scales() {
            prepared = prepared.learning_scales()?;
            wanted.push(prepared.steps.shallow_clone());
        }
        let scale_gradients = self.scale_gradients();
        self.record.clear()?;
        let _ = self.comm.f_zero_()?;
        let mut extra = [0.0, 0.0, 0.0, f64::from(u8::from(stop))];
        let factor = scale / self.sharing.microbatches as f64;
        for m in microbatches {
            let logits = self.executor.forward(
                m.images,
                &prepared,
                &self.weights,
                mode,
                &mut self.record,
                watch.as_deref_mut().map(|w| w as &mut Watch),
            )?;
            let loss = logits.f_cross_entropy_loss::<Tensor>(
                m.labels,
                None,
                Reduction::Mean,
                -100,
                self.loss.label_smoothing,
            )?;
            let loss = match (self.strategy.qat.as_ref().and_then(|q| q.distillation), &mut self.teacher) {
                (None, _) => loss,
                (Some(d), Some(teacher)) => distill::loss(d, &loss, &logits, &teacher.logits(m.images)?)?,
                (Some(_), None) => return Err(OptimError::NoTeacher),
            };
            let grads = Tensor::f_run_backward(&[loss.f_mul_scalar(factor)?], &wanted, false, false)?;
            let _guard = tch::no_grad_guard();
            for (sum, grad) in self.gradients.iter_mut().zip(&grads) {
                let _ = sum.f_add_(grad)?;
            }
            if prepared.learns_scales {
                let _ = scale_gradients.shallow_clone().f_add_(&grads[self.gradients.len()])?;
            }
            if phase.batch_stats {
                self.record.end_microbatch()?;
            }
            extra[0] += loss.f_double_value(&[])?;
            extra[1] +=
                logits.f_argmax(1, false)?.f_eq_tensor(m.labels)?.f_sum(Kind::Int64)?.f_int64_value(&[])?
                    as f64;
            extra[2] += m.labels.size()[0] as f64;
        }
        let _guard = tch::no_grad_guard();
        let layout = &self.weights.layout;
        self.comm.narrow(0, layout.trainable_len, layout.buffers_len).f_copy_(&self.record.stats)?;
        self.extra().f_copy_(&Tensor::f_from_slice(&extra)?)?;
        Ok(())
    }

    fn learns_scales(&self) -> bool {
        self.scale_velocity.size()[0] > 0
    }

    fn reduce(&mut self, phase: Phase) -> Result<(), OptimError> {
        for b in &self.buckets {
            self.collective.all_reduce(&self.comm.narrow(0, b.offset, b.len), ReduceOp::Sum)?;
        }
        if phase.observe && !self.weights.layout.quantizers.is_empty() {
            self.collective.all_reduce(&self.record.maxima, ReduceOp::Max)?;
        }
        Ok(())
    }

    fn update(&mut self, gradients: &Tensor, phase: Phase, lr: f64, scale: f64) -> Result<(), OptimError> {
        // Whatever can refuse comes first: on error nothing was updated.
        let ranges = match &self.strategy.qat {
            Some(q) if phase.observe => {
                let seen = Record::host_maxima(&self.record.maxima, &self.weights.layout)?;
                let old = self.weights.ranges_host()?;
                let new = old.iter().zip(seen).map(|(old, seen)| {
                    old.map_or(seen, |old| observer::moved(q.observer, old, seen, q.observer_momentum))
                });
                Some(Tensor::f_from_slice(&new.collect::<Vec<f32>>())?)
            }
            _ => None,
        };
        if scale != 1.0 {
            let _ = gradients.shallow_clone().f_mul_scalar_(1.0 / scale)?;
            let _ = self.scale_gradients().f_mul_scalar_(1.0 / scale)?;
        }
        let layout = &self.weights.layout;
        self.rule.update(&self.weights.flat, &self.velocity, gradients, layout.decayed, lr)?;
        if self.learns_scales() {
            scales::update(
                &self.rule,
                &self.weights.ranges,
                &self.weights.qmax,
                &self.scale_velocity,
                &self.scale_gradients(),
                lr,
            )?;
        }
        if phase.batch_stats {
            let mean = self
                .comm
                .narrow(0, layout.trainable_len, layout.buffers_len)
                .f_div_scalar(self.sharing.microbatches as f64)?;
            let _ = self
                .weights
                .buffers
                .f_mul_scalar_(1.0 - self.bn_momentum)?
                .f_add_(&mean.f_mul_scalar(self.bn_momentum)?)?;
        }
        if let Some(ranges) = ranges {
            self.weights.ranges.f_copy_(&ranges)?;
        }
        Ok(())
    }
}
