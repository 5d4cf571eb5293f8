//! A run from its beginning to its end, over as many generations of workers as it takes. All that is still to be done
//! follows from the state that lives across them, so that whoever comes to a new one goes on where that stands.

use super::job::Job;
use super::progress::{Boundary, How, Saving};
use super::survive::Next;
use super::trace::Tracing;
use super::{EpochEnd, EvalResult, Run, TrainError, join};
use crate::checkpoint::{OwnedFolder, Position};
use crate::config::{RunConfig, RunScope};
use crate::launcher::watchdog::{Phase, doing};
use crate::session::Session;
use serde_json::json;

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
/// other ranks reach it. In a job that goes on without some of its workers, it goes on in the next generation when one is
/// over, from the state of the worker that is furthest.
pub fn run(config: &RunConfig, session: &Session, job: &Job, address: &str) -> Result<Outcome, TrainError> {
    let advised = |e: TrainError| e.with_advice(config.data.batch_size);
    let mut run: Option<Run> = None;
    let outcome = loop {
        let e = match attempt(&mut run, config, session, job, address).map_err(advised) {
            Ok(outcome) => break outcome,
            Err(e) => e,
        };
        if session.outlives(&e) {
            match super::survive::next(&mut run, session, &e) {
                Next::Generation => continue,
                Next::Left(outcome) => return Ok(outcome),
                Next::None => {}
            }
        }
        // Before anything is freed: a device that hangs could hold up the word for good.
        // What ends the set-up is reported by whoever adds its advice; where others go on, they wait for the word.
        let sets_up = run.is_none() && !session.survives();
        if !sets_up
            && !matches!(e, TrainError::Stopped(_) | TrainError::NotWanted)
            && session.abort_reason().is_none()
        {
            session.report_failure(&e.to_string(), e.kind_among(session.survives()));
        }
        if let Some(run) = &mut run {
            run.rescue(&e);
            run.tracing.iter_mut().for_each(Tracing::write_own);
        }
        return Err(e);
    };
    if let Some(run) = &mut run {
        run.write_trace();
        // All there is to lose is saved: what goes wrong from here on is said and costs nothing.
        if let Err(e) = run.program.finish() {
            tracing::warn!("the ranks did not part in good order, which changes nothing of the results: {e}");
        }
    }
    Ok(outcome)
}

/// Goes on in the current generation, to the end.
fn attempt<'a>(
    run: &mut Option<Run<'a>>,
    config: &'a RunConfig,
    session: &'a Session,
    job: &'a Job,
    address: &'a str,
) -> Result<Outcome, TrainError> {
    if run.is_none() && join::comes_to_others(&session.generation()) {
        *run = Some(Run::new(config, session, job, address)?);
        if !join::let_in(run, session)? {
            return Ok(join::not_needed());
        }
    }
    let run = match run {
        Some(run) => {
            run.rejoin()?;
            run
        }
        None => run.insert(Run::new(config, session, job, address)?),
    };
    run.prepare()?;
    let outcome = run.go()?;
    run.settle()?;
    Ok(outcome)
}

impl Run<'_> {
    /// Evaluates, calibrates or trains as configured.
    fn go(&mut self) -> Result<Outcome, TrainError> {
        let config = self.task.config;
        let evaluates = config.run.run_scope == RunScope::TrainEval;
        if config.run.run_scope == RunScope::EvalOnly {
            self.eval = Some(self.evaluate()?.ok_or(TrainError::Stopped("the evaluation"))?);
            return Ok(self.outcome(false));
        }
        // What a rank that is gone was to save, or was saving.
        if let Some(saving) = self.progress.saving {
            self.save(saving)?;
        }
        if self.is_complete() {
            // It may have been stopped between its last step and its end.
            if self.owes_conclusion() {
                if !self.conclude_training(evaluates)? {
                    return self.stopped();
                }
                self.save(Saving::of(How::Due, self.eval))?;
            }
            self.say_complete();
            return Ok(self.outcome(false));
        }
        // Post-training quantization: calibrated, not trained.
        if config.run.epochs == 0 {
            if evaluates && !self.progress.concluded && !self.measure_before_quantization()? {
                return self.stopped();
            }
            if !self.conclude_training(evaluates)? {
                return self.stopped();
            }
            self.save(Saving::of(How::Due, self.eval))?;
        }
        self.progress.reach_end(self.steps_per_epoch, self.step_limit());
        while self.progress.boundary.is_some()
            || self.progress.position.epoch < config.run.epochs && !self.step_limit()
        {
            if self.progress.boundary.is_none() {
                let step_limit = match self.epoch()? {
                    EpochEnd::Interrupted => return self.stopped(),
                    end => end == EpochEnd::StepLimit,
                };
                self.progress.boundary = Some(Boundary { step_limit, measured: false });
            }
            if !self.end_of_epoch(evaluates)? {
                return self.stopped();
            }
            let step_limit = self.progress.passed();
            if step_limit {
                break;
            }
        }
        self.say_best();
        let outcome = self.outcome(false);
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

    /// What follows the steps of an epoch: evaluation and checkpoint, where they are due. False: the ranks agreed to stop.
    fn end_of_epoch(&mut self, evaluates: bool) -> Result<bool, TrainError> {
        let run = &self.task.config.run;
        let Some(boundary) = self.progress.boundary.filter(|b| !b.measured && !run.benchmark) else {
            return Ok(true);
        };
        let epoch = self.progress.position.epoch;
        let last = boundary.step_limit || epoch >= run.epochs;
        let (save_due, due) = (
            last || epoch.is_multiple_of(run.save_interval),
            evaluates && (last || epoch.is_multiple_of(run.eval_interval)),
        );
        let done = if last { self.conclude_training(due)? } else { !due || self.measure()? };
        if !done {
            return Ok(false);
        }
        let measured = self.eval.filter(|_| due);
        let saving = if self.is_best(measured.as_ref()) {
            Some(Saving::of(How::Best { due: save_due }, measured))
        } else {
            save_due.then(|| Saving::of(How::Due, measured))
        };
        // From here on it is decided, whoever is lost while it is done.
        self.progress.boundary = Some(Boundary { measured: true, ..boundary });
        saving.map_or(Ok(()), |saving| self.save(saving))?;
        Ok(true)
    }

    /// What follows the last step. False: the ranks agreed to stop.
    fn conclude_training(&mut self, evaluates: bool) -> Result<bool, TrainError> {
        self.progress.concluded = self.reestimate_batch_norm(true)? && (!evaluates || self.measure()?);
        Ok(self.progress.concluded)
    }

    /// Whether a run whose steps are all done has left out what follows them.
    fn owes_conclusion(&self) -> bool {
        let evaluates = self.task.config.run.run_scope == RunScope::TrainEval;
        evaluates && !self.progress.evaluated
            || !self.progress.concluded && self.program.due_batch_norm(true).is_some()
    }

    /// Evaluates. False: the ranks agreed to stop, and the last evaluation is what it was.
    fn measure(&mut self) -> Result<bool, TrainError> {
        let result = self.evaluate()?;
        let done = result.is_some();
        self.eval = result.or(self.eval);
        Ok(done)
    }

    /// The end by a signal, at a place the ranks have agreed on. Without an evaluation of its own, a checkpoint makes
    /// the run that goes on from it measure what was left out at the end.
    fn stopped(&mut self) -> Result<Outcome, TrainError> {
        // What is saved here and measured stays so: a signal after that has nothing to add.
        if !self.progress.is_kept_and_measured() {
            self.save(Saving::of(How::Due, None))?;
        }
        Ok(self.outcome(true))
    }

    /// Saves on the rank that writes; all ranks hold the same state between steps. On the others it is promised, until that
    /// rank has taken part in a later step.
    pub(super) fn save(&mut self, saving: Saving) -> Result<(), TrainError> {
        self.progress.saving = Some(saving);
        let (writes, measured) = (self.writes(), saving.evaluated);
        if writes {
            let _doing = doing(Phase::Saving);
            let snapshot = self.snapshot(self.eval.as_ref().filter(|_| measured))?;
            let session = self.task.session;
            let still = || session.is_current();
            let path = match (&mut self.output.folder, saving.how) {
                (Some(folder), How::Due) => OwnedFolder::save(folder, &snapshot, &still)?,
                (Some(folder), How::Best { due }) => folder.save_best(&snapshot, due, &still)?,
                (None, _) => return Err(TrainError::Config("the rank that writes has no folder".into())),
            };
            self.reporter.saved(&path);
        }
        // Whoever writes the next one may have to remove this one.
        match (&self.output.folder, saving.how) {
            (Some(folder), _) => self.output.estate = folder.estate().clone(),
            (None, How::Best { due }) => self.output.estate.best(&self.progress.position.folder_name(), due),
            (None, How::Due) => {}
        }
        self.progress.saved(measured, writes);
        Ok(())
    }

    /// Whether this rank writes the checkpoints of a run that writes some.
    fn writes(&self) -> bool {
        self.task.session.generation().rank() == 0 && self.output.run.is_some()
    }

    /// In a job that outlives its workers: all ranks know that all is saved. Whoever left before could not save it again.
    fn settle(&mut self) -> Result<(), TrainError> {
        if self.task.session.survives() {
            self.program.collective().barrier()?;
        }
        Ok(())
    }

    /// An error where the job, or this generation, is over.
    pub(super) fn ensure_going_on(&self) -> Result<(), TrainError> {
        let session = self.task.session;
        if let Some(reason) = session.abort_reason() {
            return Err(TrainError::Aborted(reason));
        }
        session.regrouping().map_or(Ok(()), |why| Err(TrainError::Regrouped(why)))
    }
}
