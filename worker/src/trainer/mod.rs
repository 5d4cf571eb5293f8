//! The training loop: data, step, report, evaluate, save.

mod all_reduce;
mod begin;
mod benchmark;
mod best;
mod course;
mod error;
mod eval;
mod first;
mod group;
mod job;
mod join;
mod leave;
mod overlap;
mod patience;
mod progress;
mod quantization;
mod remainder;
mod rescue;
mod resume;
mod setup;
mod source;
mod survive;
mod task;
mod trace;
mod update;

pub use all_reduce::{AllReduce, sent_bytes, time_all_reduce};
pub use begin::kept_global_batch;
pub use course::{Outcome, run};
pub use error::TrainError;
pub use eval::{ClassCount, EvalResult, evaluate};
pub use job::{Job, model_facts, purpose};
pub use resume::same_task;
pub use setup::Run;

use crate::checkpoint::Position;
use crate::config::RunScope;
use crate::data::{Batch, EvalLoader, Uploading};
use crate::exec::{Evaluator, ExecError, Mode};
use crate::launcher::watchdog::{self, Phase, doing};
use crate::metrics::{ClassMetrics, EvalMetrics, Happening, StepMetrics};
use crate::native;
use crate::optim::{AfterStep, Microbatch, OptimError, Stage, StepOutcome};
use crate::session::StepReport;
use first::{NonFinite, first, of_all_ranks};
use progress::{How, Saving};
use std::time::{Duration, Instant};
use tch::Device;
use trace::Tracing;

/// An evaluation, as it is reported, and its classes in the order of their labels.
type Evaluation = (EvalResult, EvalMetrics, Vec<ClassCount>);

/// Why an epoch's loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EpochEnd {
    Complete,
    StepLimit,
    Interrupted,
}

impl Run<'_> {
    /// Runs the epoch from the current position to its end.
    fn epoch(&mut self) -> Result<EpochEnd, TrainError> {
        let _doing = doing(Phase::Training);
        self.progress.concluded = false;
        let (epoch, steps) = (self.progress.position.epoch, self.steps_per_epoch);
        self.ahead = None;
        if let Some(loader) = &mut self.loader {
            loader.start_epoch(epoch, self.progress.position.step_in_epoch)?;
        }
        self.reporter.epoch_start(epoch, steps, self.progress.position.step_in_epoch);
        let mut end = EpochEnd::Complete;
        while end == EpochEnd::Complete && self.progress.position.step_in_epoch < steps {
            self.ensure_going_on()?;
            if !self.reestimate_batch_norm(false)? {
                end = EpochEnd::Interrupted;
                break;
            }
            self.tracing.iter_mut().for_each(Tracing::before_step);
            let begun = Instant::now();
            let loading = self.task.session.loads();
            let batches = self.local_microbatches()?;
            drop(loading);
            let data_time = begun.elapsed();
            let outcome = self.step(&batches)?;
            self.progress.step();
            if let Some(tracing) = &mut self.tracing {
                tracing.step(self.progress.position.global_step, begun, &outcome.spans);
            }
            self.after_step(&outcome, data_time, begun.elapsed())?;
            if outcome.after == AfterStep::Stop {
                end = EpochEnd::Interrupted;
            } else if self.step_limit() {
                end = EpochEnd::StepLimit;
            } else if outcome.after == AfterStep::Regroup && !self.was_last_step() {
                // Nobody comes back to these steps where they are the epoch's last.
                if self.progress.position.step_in_epoch >= steps {
                    self.reporter.epoch_end();
                }
                return Err(self.part_at_boundary());
            }
        }
        self.reporter.epoch_end();
        self.progress.end_of_steps(steps);
        Ok(end)
    }

    /// This rank's microbatches of the next step. Those of the step after it, if there will be one, are sent on their way: they
    /// arrive while this one is computed. What is wrong with them is said when their step comes.
    fn local_microbatches(&mut self) -> Result<Vec<Batch>, TrainError> {
        let coming = match self.ahead.take() {
            Some(ahead) => ahead?,
            None => self.upload()?,
        };
        let batches = coming.into_iter().map(Uploading::arrived).collect::<Result<_, _>>()?;
        if !self.is_last_step() {
            self.ahead = Some(self.upload());
        }
        Ok(batches)
    }

    /// Whether no step of the epoch follows the one that comes next, as far as is known before.
    fn is_last_step(&self) -> bool {
        let (run, done) = (&self.task.config.run, self.progress.position.global_step + 1);
        let timed = self.timed_steps() + u64::from(done - self.progress.begun > run.benchmark_warmup_steps);
        self.progress.position.step_in_epoch + 1 >= self.steps_per_epoch
            || (run.max_steps > 0 && done >= run.max_steps)
            || (run.benchmark && timed >= run.benchmark_steps)
    }

    /// Whether the step that was done last was the last one of all epochs.
    fn was_last_step(&self) -> bool {
        let Position { epoch, step_in_epoch, .. } = self.progress.position;
        step_in_epoch >= self.steps_per_epoch && epoch + 1 >= self.task.config.run.epochs
    }

    /// The next microbatches of this rank, on their way to its device.
    fn upload(&mut self) -> Result<Vec<Uploading>, TrainError> {
        let ended = || TrainError::Config("the loader ended before the epoch did".into());
        let device = self.program.device();
        let loader = self.loader.as_mut().ok_or_else(ended)?;
        let mut tracing = self.tracing.as_mut();
        let mut batches = Vec::new();
        for _ in self.task.data.sharding.local_microbatches() {
            let begun = Instant::now();
            let batch = loader.next()?.ok_or_else(ended)?;
            let read = tracing.as_mut().map(|t| t.input(Happening::Data, begun));
            batches.push(batch.upload(device)?);
            if let (Some(tracing), Some(read), true) = (&mut tracing, read, device != Device::Cpu) {
                tracing.input(Happening::Upload, read);
            }
        }
        Ok(batches)
    }

    /// Writes what was traced, if anything was; all ranks get here together, and what was trained is worth more.
    fn write_trace(&mut self) {
        if let Some(tracing) = &mut self.tracing {
            tracing.write(self.program.collective(), self.program.device());
        }
    }

    /// One optimizer step. With checks on, ranks are compared, and a step that fails on its numbers is gone through again, to name
    /// the first layer with NaN or infinity.
    fn step(&mut self, batches: &[Batch]) -> Result<StepOutcome, TrainError> {
        let microbatches: Vec<Microbatch> =
            batches.iter().map(|b| Microbatch { images: &b.images, labels: &b.labels }).collect();
        let session = self.task.session;
        let after = if leave::stops(session) {
            AfterStep::Stop
        } else if session.boundary_wanted() || session.awaits_boundary() {
            AfterStep::Regroup
        } else {
            AfterStep::GoOn
        };
        let outcome = self.program.step_watched(&microbatches, after, None);
        if !self.task.config.run.checks {
            return Ok(outcome?);
        }
        let failed = match outcome {
            Err(e @ (OptimError::Loss { .. } | OptimError::Gradients { .. } | OptimError::Exec(_))) => e,
            outcome => {
                let outcome = outcome?;
                self.program.ensure_equal_ranks()?;
                return Ok(outcome);
            }
        };
        match self.first_non_finite(&microbatches, &failed) {
            Some((node, count)) => Err(TrainError::FirstNonFinite { node, count, source: failed }),
            None => Err(failed.into()),
        }
    }

    /// The first layer with NaN or infinity in the step that has `failed`, and how many of its values are that: of all ranks,
    /// where all of them have failed alike.
    fn first_non_finite(
        &mut self,
        microbatches: &[Microbatch],
        failed: &OptimError,
    ) -> Option<(String, u64)> {
        let nodes: Vec<String> = self.program.graph().nodes.iter().map(|n| n.name.clone()).collect();
        let mut own: Option<NonFinite> = None;
        let mut watch = |node: &crate::graph::Node, value: &tch::Tensor| {
            if let Ok(seen) = native::abs_max(value)
                && let Ok(count) = seen.f_double_value(&[1])
                && count > 0.0
                && let Some(node) = nodes.iter().position(|name| *name == node.name)
            {
                own = first(own.into_iter().chain([NonFinite { node, count: count as u64 }]));
            }
        };
        // It may fail again where it did before: what was seen until then counts.
        let _ = self.program.watch_step(microbatches, &mut watch);
        // Loss, gradients and what quantizers have seen are those of all ranks; whatever else fails may have failed here alone.
        let found = match failed {
            OptimError::Loss { .. }
            | OptimError::Gradients { .. }
            | OptimError::Exec(ExecError::NonFinite(_)) => {
                of_all_ranks(own, self.program.collective(), self.program.device()).unwrap_or_else(|e| {
                    tracing::warn!("what other ranks have found could not be gathered: {e}");
                    own
                })
            }
            _ => own,
        };
        found.and_then(|found| Some((nodes.get(found.node)?.clone(), found.count)))
    }

    fn after_step(&mut self, outcome: &StepOutcome, data: Duration, all: Duration) -> Result<(), TrainError> {
        watchdog::took(all);
        self.task.session.worked(all.saturating_sub(outcome.time(Stage::Reduce)));
        let images = self.task.data.sharding.global_batch() as u64;
        let seconds = |stage| outcome.time(stage).as_secs_f64();
        let metrics = StepMetrics {
            epoch: self.progress.position.epoch,
            step: self.progress.position.step_in_epoch,
            global_step: self.progress.position.global_step,
            loss: outcome.loss,
            top1: 100.0 * outcome.top1,
            lr: outcome.lr,
            grad_norm: outcome.grad_norm,
            loss_scale: outcome.scale,
            skipped: outcome.skipped,
            images,
            data_time: data.as_secs_f64(),
            forward_time: seconds(Stage::Forward),
            backward_time: seconds(Stage::Backward),
            reduce_time: seconds(Stage::Reduce),
            update_time: seconds(Stage::Update),
            step_time: all.as_secs_f64(),
        };
        self.timed(&metrics);
        self.reporter.step(&metrics);
        let report = step_report(&metrics);
        self.task.session.report_step(self.progress.position.global_step, report);
        let every = self.task.config.run.save_interval_steps;
        let boundary = self.progress.position.step_in_epoch == self.steps_per_epoch;
        if every > 0 && self.progress.position.global_step.is_multiple_of(every) && !boundary {
            self.save(Saving::of(How::Due, None))?;
        }
        Ok(())
    }

    /// Whether a resumed run has nothing left to train.
    fn is_complete(&self) -> bool {
        let c = self.task.config;
        self.progress.resumed
            && !c.run.benchmark
            // What this process has trained is concluded where it was trained.
            && self.progress.begun == self.progress.position.global_step
            && (self.progress.position.epoch >= c.run.epochs
                || (c.run.max_steps > 0 && self.progress.position.global_step >= c.run.max_steps))
    }

    fn say_complete(&mut self) {
        let c = self.task.config;
        let end = match self.progress.position.epoch >= c.run.epochs {
            true => format!("all {} epochs are trained; more with --epochs N", c.run.epochs),
            false => format!("--max-steps {} are done; more with --max-steps N", c.run.max_steps),
        };
        self.reporter.say(&format!("nothing left to do: {end}"));
    }

    fn step_limit(&self) -> bool {
        let c = self.task.config;
        let benchmark = c.run.benchmark && self.timed_steps() >= c.run.benchmark_steps;
        benchmark || (c.run.max_steps > 0 && self.progress.position.global_step >= c.run.max_steps)
    }

    /// Evaluates the validation set on all ranks and reports it; none when the ranks agreed to stop. Where the weights are
    /// averaged, the average is the network, and what is trained is reported besides.
    fn evaluate(&mut self) -> Result<Option<EvalResult>, TrainError> {
        let mode = Mode::evaluation(self.task.config.quantization.qat);
        if self.program.average().is_some() {
            let trained = self.program.evaluator_of(&self.program.weights, mode)?;
            let Some((_, metrics, _)) = self.evaluation(&trained)? else { return Ok(None) };
            self.reporter.eval_unaveraged(self.progress.position.epoch, &metrics);
        }
        let Some((result, metrics, counts)) = self.evaluation(&self.program.evaluator(mode)?)? else {
            return Ok(None);
        };
        let classes = |(name, count): (&String, &ClassCount)| ClassMetrics {
            name: name.clone(),
            images: count.images,
            right: count.right,
        };
        let classes: Vec<_> = self.task.job.classes().iter().zip(&counts).map(classes).collect();
        let (c, epoch) = (self.task.config, self.progress.position.epoch);
        self.reporter.eval(epoch, &metrics);
        let last = c.run.run_scope == RunScope::EvalOnly || epoch >= c.run.epochs || self.step_limit();
        self.reporter.classes(epoch, &classes, last);
        Ok(Some(result))
    }

    /// The validation set on all ranks through one of the program's networks; none when the ranks agreed to stop.
    fn evaluation(&self, network: &Evaluator) -> Result<Option<Evaluation>, TrainError> {
        let _doing = doing(Phase::Evaluating);
        let begun = Instant::now();
        let val = self.task.job.val.clone().ok_or(TrainError::NothingToEvaluate)?;
        let rounds = self.task.data.sharding.evaluation_rounds(val.len());
        let loader = EvalLoader::new(val, self.task.data.clone(), None)?;
        let classes = self.task.job.classes().len();
        let stops = || leave::stops(self.task.session);
        let done = evaluate(&self.program, network, loader, rounds, classes, &stops)?;
        Ok(done.map(|(result, counts)| {
            let metrics = EvalMetrics {
                top1: result.top1,
                top5: result.top5,
                loss: result.loss,
                images: result.images,
                corrupt: result.corrupt,
                seconds: begun.elapsed().as_secs_f64(),
            };
            (result, metrics, counts)
        }))
    }
}

fn step_report(m: &StepMetrics) -> StepReport {
    StepReport {
        step: m.global_step,
        epoch: m.epoch,
        loss: m.loss,
        images_per_second: m.images as f64 / m.step_time,
        data_seconds: m.data_time,
        compute_seconds: m.compute_time(),
        reduce_seconds: m.reduce_time,
        ..StepReport::default()
    }
}
