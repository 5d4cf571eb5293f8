//! The program that trains: forward and backward over this rank's microbatches, one reduction, one update.

use super::buckets::{Bucket, plan_buckets};
use super::loss_scale::LossScale;
use super::qat::Phase;
use super::schedule::Schedule;
use super::{CrossEntropy, OptimError, Sgd, Strategy};
use crate::collective::{Collective, ReduceOp};
use crate::exec::{ExecError, Executor, Mode, Prepared, Record, Watch, Weights, WeightsLayout};
use crate::graph::Op;
use crate::quant::observer;
use sha2::{Digest, Sha256};
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
    executor: Executor,
    /// Parameters, statistics, ranges.
    pub weights: Weights,
    velocity: Tensor,
    comm: Tensor,
    gradients: Vec<Tensor>,
    buckets: Vec<Bucket>,
    record: Record,
    bn_momentum: f64,
    rule: Sgd,
    schedule: Schedule,
    strategy: Strategy,
    loss: CrossEntropy,
    /// State of the loss scale.
    pub loss_scale: LossScale,
    /// Steps done.
    pub global_step: u64,
    collective: Box<dyn Collective>,
}

/// Elements behind gradients and statistics in the communication buffer: loss, correct predictions, images, and
/// how many ranks were asked to stop.
const EXTRA: i64 = 4;

impl Program {
    pub(super) fn new(
        executor: Executor,
        weights: Weights,
        rule: Sgd,
        schedule: Schedule,
        strategy: Strategy,
        loss: CrossEntropy,
        collective: Box<dyn Collective>,
    ) -> Result<Self, OptimError> {
        let mut momenta = executor.graph().nodes.iter().filter_map(|n| match &n.op {
            Op::BatchNorm(b) => Some(b.momentum),
            _ => None,
        });
        let bn_momentum = momenta.next().unwrap_or(0.0);
        if momenta.any(|m| m != bn_momentum) {
            return Err(OptimError::MixedMomentum);
        }
        let layout = &weights.layout;
        let tail = layout.buffers_len + EXTRA;
        let f32s = (Kind::Float, strategy.device);
        let comm = Tensor::zeros([layout.trainable_len + tail], f32s);
        Ok(Self {
            velocity: Tensor::zeros([layout.trainable_len], f32s),
            gradients: WeightsLayout::views(&comm, &layout.trainable),
            buckets: plan_buckets(layout, tail, strategy.bucket_bytes),
            record: Record::new(layout, strategy.device),
            comm,
            bn_momentum,
            rule,
            schedule,
            loss_scale: strategy.loss_scale,
            strategy,
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

    /// The strategy the program was made by.
    pub fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    /// The learning-rate schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The momentum buffer, flat, in the order of the trainable parameters.
    pub fn velocity(&self) -> &Tensor {
        &self.velocity
    }

    /// The gradients of the last step, reduced and unscaled, as the update has left them (weight decay added), in
    /// the order of the trainable parameters.
    pub fn gradients(&self) -> &[Tensor] {
        &self.gradients
    }

    /// What step `step` does.
    pub fn phase(&self, step: u64) -> Phase {
        let plain = Phase { observe: false, batch_stats: true };
        self.strategy.qat.as_ref().map_or(plain, |q| q.phase(step))
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
        let extra = self.comm.narrow(0, layout.trainable_len + layout.buffers_len, EXTRA);
        let [loss_sum, correct, images, stop] = Vec::<f32>::try_from(&extra.to_device(Device::Cpu))?[..]
        else {
            unreachable!("EXTRA is 4")
        };
        let loss = f64::from(loss_sum) / self.strategy.microbatches as f64;
        if !loss.is_finite() {
            return Err(OptimError::Loss { loss, step: self.global_step, lr });
        }
        let gradients = self.comm.narrow(0, 0, layout.trainable_len);
        let norm = gradients.f_norm()?.double_value(&[]) / scale;
        let mut outcome = StepOutcome {
            step: self.global_step,
            loss,
            top1: f64::from(correct) / f64::from(images),
            lr,
            grad_norm: norm,
            scale,
            skipped: !norm.is_finite(),
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
            (self.collective.rank(), self.collective.world_size(), self.strategy.microbatches);
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
            pass_through: self.strategy.pass_through,
        };
        let prepared = Prepared::new(self.executor.graph(), &self.weights, quantize, true)?;
        self.record.clear();
        let _ = self.comm.f_zero_()?;
        let mut extra = [0.0, 0.0, 0.0, f64::from(u8::from(stop))];
        let factor = scale / self.strategy.microbatches as f64;
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
            let grads =
                Tensor::f_run_backward(&[loss.f_mul_scalar(factor)?], &prepared.leaves, false, false)?;
            let _guard = tch::no_grad_guard();
            for (sum, grad) in self.gradients.iter_mut().zip(&grads) {
                let _ = sum.f_add_(grad)?;
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
        self.comm
            .narrow(0, layout.trainable_len + layout.buffers_len, EXTRA)
            .f_copy_(&Tensor::from_slice(&extra))?;
        Ok(())
    }

    fn reduce(&mut self, phase: Phase) -> Result<(), OptimError> {
        if self.collective.world_size() == 1 {
            return Ok(());
        }
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
                    old.map_or(seen, |old| observer::moving_average(old, seen, q.observer_momentum))
                });
                Some(Tensor::from_slice(&new.collect::<Vec<f32>>()))
            }
            _ => None,
        };
        if scale != 1.0 {
            let _ = gradients.shallow_clone().f_mul_scalar_(1.0 / scale)?;
        }
        let layout = &self.weights.layout;
        self.rule.update(&self.weights.flat, &self.velocity, gradients, layout.decayed, lr)?;
        if phase.batch_stats {
            let mean = self
                .comm
                .narrow(0, layout.trainable_len, layout.buffers_len)
                .f_div_scalar(self.strategy.microbatches as f64)?;
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

    /// Sets unknown ranges from maxima of calibration microbatches: the floating-point network in evaluation
    /// mode. `microbatches` are this rank's, each with its position among `total` over all ranks; the result
    /// does not depend on how they are shared out.
    pub fn calibrate(&mut self, microbatches: &[(usize, Tensor)], total: usize) -> Result<(), OptimError> {
        let _guard = tch::no_grad_guard();
        let quantizers = self.weights.layout.quantizers.len() as i64;
        let all = Tensor::zeros([total as i64, quantizers, 2], (Kind::Float, self.strategy.device));
        let prepared = Prepared::new(self.executor.graph(), &self.weights, false, false)?;
        for (position, images) in microbatches {
            self.record.clear();
            let _ = self.executor.forward(
                images,
                &prepared,
                &self.weights,
                Mode::CALIBRATE,
                &mut self.record,
                None,
            )?;
            all.get(*position as i64).f_copy_(&self.record.maxima)?;
        }
        self.collective.all_reduce(&all, ReduceOp::Max)?;
        let mut seen: Vec<Vec<f32>> = vec![Vec::new(); quantizers as usize];
        for position in 0..total {
            let row = Record::host_maxima(&all.get(position as i64), &self.weights.layout)?;
            row.into_iter().zip(&mut seen).for_each(|(x, s)| s.push(x));
        }
        for (i, (known, seen)) in self.weights.ranges_host()?.into_iter().zip(&seen).enumerate() {
            if let (None, Some(range)) = (known, observer::calibrated(seen)) {
                let _ = self.weights.ranges.get(i as i64).f_fill_(f64::from(range))?;
            }
        }
        self.executor.ensure_ranges(&self.weights).map_err(OptimError::from)
    }

    /// SHA-256 of parameters and of ranges and statistics, shortened to 8 bytes each.
    fn fingerprint(&self) -> Result<[i64; 2], ExecError> {
        let hash = |tensors: &[&Tensor]| -> Result<i64, ExecError> {
            let mut h = Sha256::new();
            for t in tensors {
                for x in Vec::<f32>::try_from(&t.to_device(Device::Cpu))? {
                    h.update(x.to_bits().to_le_bytes());
                }
            }
            Ok(i64::from_le_bytes(h.finalize()[..8].try_into().expect("a SHA-256 has 32 bytes")))
        };
        Ok([
            hash(&[&self.weights.flat, &self.velocity])?,
            hash(&[&self.weights.ranges, &self.weights.buffers])?,
        ])
    }

    /// Whether all ranks hold the same parameters, scales and statistics to the last bit.
    pub fn ensure_equal_ranks(&self) -> Result<(), OptimError> {
        if self.collective.world_size() == 1 {
            return Ok(());
        }
        let mine = Tensor::from_slice(&self.fingerprint()?).to_device(self.strategy.device);
        let all: Vec<Vec<i64>> = self
            .collective
            .all_gather(&mine)?
            .iter()
            .map(|t| Vec::<i64>::try_from(&t.to_device(Device::Cpu)))
            .collect::<Result<_, _>>()?;
        for (i, what) in ["parameters", "scales or BatchNorm statistics"].into_iter().enumerate() {
            let ranks: Vec<usize> = (0..all.len()).filter(|&r| all[r][i] != all[0][i]).collect();
            if !ranks.is_empty() {
                return Err(OptimError::Diverged { what: what.into(), ranks });
            }
        }
        Ok(())
    }
}
