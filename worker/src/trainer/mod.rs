//! The training loop: data, step, report, evaluate, save.

mod all_reduce;
mod begin;
mod benchmark;
mod best;
mod error;
mod eval;
mod first;
mod job;
mod patience;
mod progress;
mod quantization;
mod remainder;
mod rescue;
mod resume;
mod setup;
mod source;
mod trace;
mod update;

pub use all_reduce::{AllReduce, sent_bytes, time_all_reduce};
pub use begin::kept_global_batch;
pub use error::TrainError;
pub use eval::{ClassCount, EvalResult, evaluate};
pub use job::{Job, model_facts, purpose};
pub use resume::same_task;
pub use setup::Run;

use crate::checkpoint::{CheckpointError, OwnedFolder, Position, Snapshot};
use crate::config::{RunConfig, RunScope};
use crate::data::{Batch, EvalLoader, Uploading};
use crate::exec::{Evaluator, ExecError, Mode};
use crate::launcher::signals;
use crate::launcher::watchdog::{self, Phase, doing};
use crate::metrics::{ClassMetrics, EvalMetrics, Happening, StepMetrics};
use crate::native;
use crate::optim::{Microbatch, OptimError, Stage, StepOutcome};
use crate::session::{Session, StepReport};
use first::{NonFinite, first, of_all_ranks};
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tch::Device;
use trace::Tracing;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Where it stands.
    pub position: Position,
    /// Last evaluation, if any.
    pub eval: Option<EvalResult>,
    /// Ended by a signal; the state was saved.
    pub interrupted: bool,
    /// Median images per second over all ranks, over the steps that were timed; 0 if there were none.
    pub images_per_second: f64,
}

/// Trains (or evaluates) as configured, in the ranks and by the plan of `session`. `address` is this host's, as the
/// other ranks reach it.
pub fn run(config: &RunConfig, session: &Session, job: &Job, address: &str) -> Result<Outcome, TrainError> {
    let advised = |e: TrainError| e.with_advice(config.data.batch_size);
    let mut run = Run::new(config, session, job, address).map_err(advised)?;
    let outcome = run.prepare().and_then(|()| run.go());
    let outcome = outcome.map_err(advised).inspect_err(|e| {
        // Before anything is freed: a device that hangs could hold up the word for good.
        if !matches!(e, TrainError::Stopped(_)) && session.abort_reason().is_none() {
            session.report_failure(&e.to_string(), e.kind());
        }
        run.rescue(e);
        run.tracing.iter_mut().for_each(Tracing::write_own);
    })?;
    run.write_trace();
    // All there is to lose is saved: what goes wrong from here on is said and costs nothing.
    if let Err(e) = run.program.finish() {
        tracing::warn!("the ranks did not part in good order, which changes nothing of the results: {e}");
    }
    Ok(outcome)
}

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
    /// Evaluates, calibrates or trains as configured.
    fn go(&mut self) -> Result<Outcome, TrainError> {
        let config = self.task.config;
        let evaluates = config.run.run_scope == RunScope::TrainEval;
        if config.run.run_scope == RunScope::EvalOnly {
            let eval = self.evaluate()?.ok_or(TrainError::Stopped("the evaluation"))?;
            return Ok(self.outcome(Some(eval), false));
        }
        let mut eval = None;
        if self.is_complete() {
            // It may have been stopped between its last step and its end.
            if self.owes_conclusion() {
                if !self.conclude_training(evaluates, &mut eval)? {
                    return self.stopped(eval);
                }
                self.save(eval.as_ref())?;
            }
            self.say_complete();
            return Ok(self.outcome(eval, false));
        }
        // Post-training quantization: calibrated, not trained.
        if config.run.epochs == 0 {
            if evaluates && !self.measure_before_quantization()? {
                return self.stopped(eval);
            }
            if !self.conclude_training(evaluates, &mut eval)? {
                return self.stopped(eval);
            }
            self.save(eval.as_ref())?;
        }
        while self.progress.position.epoch < config.run.epochs {
            let end = self.epoch()?;
            if end == EpochEnd::Interrupted {
                return self.stopped(eval);
            }
            let (epoch, last) = (
                self.progress.position.epoch,
                end == EpochEnd::StepLimit || self.progress.position.epoch >= config.run.epochs,
            );
            if !config.run.benchmark {
                let due = evaluates && (last || epoch.is_multiple_of(config.run.eval_interval));
                let done = if last {
                    self.conclude_training(due, &mut eval)?
                } else {
                    !due || self.measure(&mut eval)?
                };
                if !done {
                    return self.stopped(eval);
                }
                let measured = eval.filter(|_| due);
                let saves = last || epoch.is_multiple_of(config.run.save_interval);
                if self.is_best(measured.as_ref()) {
                    self.save_best(measured.as_ref(), saves)?;
                } else if saves {
                    self.save(measured.as_ref())?;
                }
            }
            if end == EpochEnd::StepLimit {
                break;
            }
        }
        self.say_best();
        let outcome = self.outcome(eval, false);
        let mut summary = json!({
            "kind": "summary", "epochs": outcome.position.epoch, "global_step": outcome.position.global_step,
            "train.ips": outcome.images_per_second, "val.top1": outcome.eval.map(|e| e.top1),
        });
        if config.run.benchmark {
            let measured = self.measured()?;
            summary.as_object_mut().into_iter().for_each(|all| all.extend(measured.clone()));
        }
        self.reporter.summary(summary);
        if config.run.benchmark {
            let (n, ips) = (self.timed_steps(), outcome.images_per_second);
            self.reporter.say(&format!("train.ips {ips:.1} images/s over all workers (median of {n} steps)"));
        }
        Ok(outcome)
    }

    /// What follows the last step. False: the ranks agreed to stop.
    fn conclude_training(
        &mut self,
        evaluates: bool,
        eval: &mut Option<EvalResult>,
    ) -> Result<bool, TrainError> {
        self.progress.concluded = self.reestimate_batch_norm(true)? && (!evaluates || self.measure(eval)?);
        Ok(self.progress.concluded)
    }

    /// Whether a run whose steps are all done has left out what follows them.
    fn owes_conclusion(&self) -> bool {
        let evaluates = self.task.config.run.run_scope == RunScope::TrainEval;
        evaluates && !self.progress.evaluated
            || !self.progress.concluded && self.program.due_batch_norm(true).is_some()
    }

    /// Evaluates. False: the ranks agreed to stop, and `eval` is what it was.
    fn measure(&mut self, eval: &mut Option<EvalResult>) -> Result<bool, TrainError> {
        let result = self.evaluate()?;
        let done = result.is_some();
        *eval = result.or(*eval);
        Ok(done)
    }

    /// The end by a signal, at a place the ranks have agreed on. Without an evaluation of its own, a checkpoint makes
    /// the run that goes on from it measure what was left out at the end.
    fn stopped(&mut self, eval: Option<EvalResult>) -> Result<Outcome, TrainError> {
        // What is saved here and measured stays so: a signal after that has nothing to add.
        if !self.progress.is_kept_and_measured() {
            self.save(None)?;
        }
        Ok(self.outcome(eval, true))
    }

    /// Runs the epoch from the current position to its end.
    fn epoch(&mut self) -> Result<EpochEnd, TrainError> {
        let _doing = doing(Phase::Training);
        self.progress.concluded = false;
        let (epoch, steps) = (self.progress.position.epoch, self.steps_per_epoch());
        self.ahead = None;
        if let Some(loader) = &mut self.loader {
            loader.start_epoch(epoch, self.progress.position.step_in_epoch)?;
        }
        self.reporter.epoch_start(epoch, steps, self.progress.position.step_in_epoch);
        let mut end = EpochEnd::Complete;
        while end == EpochEnd::Complete && self.progress.position.step_in_epoch < steps {
            if let Some(reason) = self.task.session.abort_reason() {
                return Err(TrainError::Aborted(reason));
            }
            if !self.reestimate_batch_norm(false)? {
                end = EpochEnd::Interrupted;
                break;
            }
            self.tracing.iter_mut().for_each(Tracing::before_step);
            let begun = Instant::now();
            let batches = self.local_microbatches()?;
            let data_time = begun.elapsed();
            let outcome = self.step(&batches)?;
            self.progress.step();
            if let Some(tracing) = &mut self.tracing {
                tracing.step(self.progress.position.global_step, begun, &outcome.spans);
            }
            self.after_step(&outcome, data_time, begun.elapsed())?;
            if outcome.stop {
                end = EpochEnd::Interrupted;
            } else if self.step_limit() {
                end = EpochEnd::StepLimit;
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
        self.progress.position.step_in_epoch + 1 >= self.steps_per_epoch()
            || (run.max_steps > 0 && done >= run.max_steps)
            || (run.benchmark && timed >= run.benchmark_steps)
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
        let stop = signals::requested();
        let outcome = self.program.step_watched(&microbatches, stop, None);
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
        let boundary = self.progress.position.step_in_epoch == self.steps_per_epoch();
        if every > 0 && self.progress.position.global_step.is_multiple_of(every) && !boundary {
            self.save(None)?;
        }
        Ok(())
    }

    /// Whether a resumed run has nothing left to train.
    fn is_complete(&self) -> bool {
        let c = self.task.config;
        self.progress.resumed
            && !c.run.benchmark
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
        let done = evaluate(&self.program, network, loader, rounds, classes, &signals::requested)?;
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

    /// Rank 0 saves; all ranks hold the same state between steps.
    fn save(&mut self, eval: Option<&EvalResult>) -> Result<(), TrainError> {
        self.save_by(eval, OwnedFolder::save)
    }

    /// The same for the best checkpoint so far, which is `due` anyhow or not.
    fn save_best(&mut self, eval: Option<&EvalResult>, due: bool) -> Result<(), TrainError> {
        self.save_by(eval, |folder, snapshot| folder.save_best(snapshot, due))
    }

    fn save_by(
        &mut self,
        eval: Option<&EvalResult>,
        save: impl Fn(&mut OwnedFolder, &Snapshot) -> Result<PathBuf, CheckpointError>,
    ) -> Result<(), TrainError> {
        if self.output.folder.is_some() {
            let _doing = doing(Phase::Saving);
            let snapshot = self.snapshot(eval)?;
            if let Some(folder) = &mut self.output.folder {
                let path = save(folder, &snapshot)?;
                self.reporter.saved(&path);
            }
        }
        self.progress.saved(eval.is_some(), self.output.folder.is_some());
        Ok(())
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
    }
}
