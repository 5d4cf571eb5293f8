//! A worker that comes to a running job, and how those who run let it in.
//!
//! It builds what is trained, alone, and attaches once it is ready. The coordinator tells those who run that a boundary is
//! wanted; whoever hears of it asks for it in the next step, and all leave their generation after the same one
//! ([`crate::optim::AfterStep::Regroup`]), as they do for one that leaves ([`super::leave`]): nothing has failed, and nothing is done again. In the next generation it takes on the
//! state of one of them, as all do ([`super::survive`]).

use super::course::Outcome;
use super::{Run, TrainError};
use crate::checkpoint::Position;
use crate::config::RunScope;
use crate::launcher::{logging, signals};
use crate::session::{Generation, Session, SessionError};
use octrain_proto::PARTED;
use std::time::Instant;

/// Whether a worker without a run has, in this generation, others that have one.
pub(super) fn comes_to_others(generation: &Generation) -> bool {
    generation.joins() || generation.source().is_some()
}

/// Waits, ready, until those who run let this worker in; where they have not begun, it begins with them, anew. False: the job
/// has finished without it.
pub(super) fn let_in(run: &mut Option<Run>, session: &Session) -> Result<bool, TrainError> {
    if let Some(run) = run {
        run.make_ready()?;
    }
    let alone = session.generation();
    if !alone.joins() {
        return Ok(true);
    }
    let begun = Instant::now();
    let generation = match session.attach("it comes to the running job", None) {
        Ok(generation) => generation,
        Err(SessionError::Refused { kind, .. }) if kind == "finished" => {
            tracing::info!("the job has finished before this worker could join it");
            *run = None;
            return Ok(false);
        }
        Err(SessionError::Drained) => return Err(TrainError::NotWanted),
        Err(SessionError::Interrupted(_)) => return Err(TrainError::Stopped("the wait to be let in")),
        Err(e) => return Err(TrainError::Aborted(e.to_string())),
    };
    let (number, rank, world) = (generation.number(), generation.rank(), generation.world_size());
    logging::identify(rank, number);
    tracing::info!("joined: rank {rank} of {world} in generation {number}");
    match run {
        Some(run) if generation.source().is_some() => {
            let why = session.why_over(alone.number());
            run.left = Some((begun, why.unwrap_or_else(|| "this worker has come".into())));
        }
        run => *run = None,
    }
    Ok(true)
}

/// The end of a worker that the job has finished without.
pub(super) fn not_needed() -> Outcome {
    Outcome {
        position: Position::default(),
        eval: None,
        interrupted: signals::requested(),
        images_per_second: 0.0,
    }
}

impl Run<'_> {
    /// What takes time and needs nobody else.
    fn make_ready(&mut self) -> Result<(), TrainError> {
        let trains = self.task.config.run.run_scope != RunScope::EvalOnly;
        if trains && self.needs_teacher() {
            self.learn_from_teacher()?;
        }
        Ok(())
    }

    /// Parts from the other ranks after a step, in good order; the error that leads to the next generation.
    pub(super) fn part_at_boundary(&mut self) -> TrainError {
        let collective = self.program.collective();
        // What was due here is saved, and nobody needs anything of another: whoever is told sooner than it hears this has it all.
        if let Err(e) = collective.barrier().and_then(|()| collective.finish()) {
            tracing::debug!("the ranks did not part in good order, which changes nothing: {e}");
        } else {
            // Whoever was to save has, before it came here.
            self.progress.promise_kept();
        }
        let step = self.progress.position.global_step;
        TrainError::Regrouped(format!("all have stopped after step {step}, {PARTED}"))
    }
}
