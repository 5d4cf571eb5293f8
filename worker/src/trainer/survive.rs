//! From one generation of workers to the next: what lives is kept, what was of the old one is dropped, and all take on
//! the state of the one that is furthest.
//!
//! Kept: weights, momentum, average, ranges, statistics, loss scale (the program's); position, what is due there, the
//! best and the last evaluation (the run's). Dropped: connections, sharding, loaders, sums of a step under way.

use super::best::Best;
use super::course::Outcome;
use super::group::collective;
use super::job::Job;
use super::join::not_needed;
use super::progress::Progress;
use super::task::data_config;
use super::{EvalResult, Run, TrainError};
use crate::checkpoint::{Estate, OwnedFolder, RunIdentity, StartedFrom};
use crate::collective::{Local, Operation, ReduceOp, StoreError};
use crate::data::Dataset;
use crate::launcher::logging;
use crate::metrics::{Regrouped, Reporter};
use crate::optim::Place;
use crate::session::machine::host_name;
use crate::session::{Generation, Placement, Session, SessionError, Standing};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Instant;
use tch::Tensor;

/// Where the rank that is furthest says where it stands.
const KEY: &str = "octrain/state";

/// What lives of a run besides the program's tensors. Numbers of evaluations go by their bits: ranks must not differ by a
/// rounding of the text.
#[derive(Serialize, Deserialize)]
struct State {
    progress: Progress,
    best: (Option<u64>, bool),
    eval: Option<[u64; 5]>,
    estate: Estate,
    program: Place,
    /// What the checkpoints of a worker that comes to the running job say, besides its own settings.
    run: Option<RunIdentity>,
    started_from: Option<StartedFrom>,
    /// What its images are to agree with: [`image_set`].
    images: String,
}

/// What ranks must agree on of the images, which nobody looks at together: the classes in their order, and how many there are of
/// each split.
fn image_set(job: &Job) -> String {
    let len = |split: &Option<Arc<Dataset>>| split.as_ref().map_or(0, |d| d.len());
    let mut hash = Sha256::new().chain_update(format!("{} {}", len(&job.train), len(&job.val)));
    job.classes().iter().for_each(|name| hash.update(format!("/{name}")));
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// A place and its rank, for people.
fn named(p: &Placement) -> String {
    format!("host {} local {} (rank {})", p.host, p.local_index, p.rank)
}

/// What follows a generation that is over.
pub(super) enum Next {
    /// Another one.
    Generation,
    /// It has this worker no more, which was to leave.
    Left(Outcome),
    /// Nothing, for this worker.
    None,
}

/// Leaves a generation that is over, for the reason that `e` gives, and comes to the next one, where there is one. A
/// run that has yet to begin, or that others have yet to begin with, is dropped, to be begun anew.
pub(super) fn next(run: &mut Option<Run>, session: &Session, e: &TrainError) -> Next {
    let begun = Instant::now();
    // The coordinator's word, where it came, says more than the call that broke.
    let why = session.regrouping().unwrap_or_else(|| e.to_string());
    if let Some(run) = run {
        run.drop_generation();
        if session.leaves_alone() {
            run.let_go();
        }
    }
    let standing = run.as_ref().filter(|run| run.has_state).map(Run::standing);
    let old = session.generation().number();
    match session.attach(&why, standing) {
        Ok(generation) => {
            logging::identify(generation.rank(), generation.number());
            tracing::info!(
                "after generation {old}: rank {} of {} in generation {}",
                generation.rank(),
                generation.world_size(),
                generation.number()
            );
            match run {
                Some(run) if generation.source().is_some() => run.left = Some((begun, why)),
                run => *run = None,
            }
            Next::Generation
        }
        Err(SessionError::Drained) => {
            tracing::info!("after generation {old}: the job goes on without this worker, which was to leave");
            let stopped = || Outcome { interrupted: true, ..not_needed() };
            Next::Left(run.as_mut().map_or_else(stopped, Run::left))
        }
        Err(refused) => {
            tracing::error!("there is no generation after {old} for this worker: {refused}");
            Next::None
        }
    }
}

impl Run<'_> {
    /// How far this rank is.
    fn standing(&self) -> Standing {
        Standing { step: self.progress.position.global_step, stage: self.progress.stage() }
    }

    /// Drops what is of a generation that is over.
    fn drop_generation(&mut self) {
        self.program.abandon();
        self.program.regroup(Box::new(Local));
        self.ahead = None;
        self.loader = None;
        // A step that all ranks have done, and whose numbers were then found to differ.
        while self.progress.position.global_step < self.program.global_step {
            self.progress.step();
        }
    }

    /// Joins the ranks of the current generation, where it is another one than this run was in.
    pub(super) fn rejoin(&mut self) -> Result<(), TrainError> {
        let session = self.task.session;
        let generation = session.generation();
        if generation.number() == self.generation {
            return Ok(());
        }
        let formed = Instant::now();
        let calls = self.tracing.as_ref().map(super::trace::Tracing::calls);
        let collective = collective(session, self.address, self.patience, calls)?;
        self.program.regroup(collective);
        let config = self.task.config;
        let channels = config.model.image_shape[0];
        self.task.data = data_config(&config.data, channels, session.plan(), &generation);
        let connected = Instant::now();
        let rank = generation.rank();
        // All meet before the one that is the first now takes what another, who lives, may have had.
        if rank > 0 {
            self.output.folder = None;
            self.reporter = Reporter::silent(config.run.print_interval);
        }
        let sent = self.share(&generation)?;
        self.take_output(rank)?;
        if let Some(tracing) = &mut self.tracing {
            tracing.regroup(generation.world_size() as usize);
        }
        self.loader = self.task.loader()?;
        self.generation = generation.number();
        let agreed = connected.elapsed();
        generation.arrived(connected - formed, agreed);
        if let Some((left, why)) = self.left.take() {
            self.reporter.regrouped(&Regrouped {
                generation: generation.number(),
                world: generation.world_size(),
                why,
                joined: generation.joined().map(named).collect(),
                step: self.progress.position.global_step,
                sent,
                seconds: [
                    (formed - left).as_secs_f64(),
                    (connected - formed).as_secs_f64(),
                    agreed.as_secs_f64(),
                ],
            });
        }
        Ok(())
    }

    /// All ranks take on the state of the one that is furthest; whether tensors had to be sent.
    fn share(&mut self, generation: &Generation) -> Result<bool, TrainError> {
        let none = || TrainError::Config("the generation names no rank whose state counts".into());
        let source = generation.source().ok_or_else(none)?;
        let (session, store) = (self.task.session, self.task.session.store());
        let waiting = session.meets(generation, Operation::Agree);
        if generation.rank() == source && generation.world_size() > 1 {
            let text = serde_json::to_vec(&self.state()).map_err(|e| TrainError::Config(e.to_string()))?;
            store.set(KEY, &text)?;
        }
        let saved = self.has_state.then(|| self.progress.saved_here());
        let sent = if generation.rank() == source {
            drop(waiting);
            self.program.follow_rank(source as usize, self.program.place())?
        } else {
            let text = store.get(KEY, self.patience, generation.abort())?;
            drop(waiting);
            let state: State = serde_json::from_slice(&text).map_err(|e| {
                TrainError::Begin(StoreError::Failed(format!(
                    "the state of rank {source} cannot be read: {e}"
                )))
            })?;
            if state.images != image_set(self.task.job) {
                return Err(TrainError::Config(format!(
                    "the images of this host are not those of rank {source}, whose state it is to take on: they have other classes, or are not as many (--image-root)"
                )));
            }
            // The tensors first: until they are there, this rank stands where it stood.
            let sent = self.program.follow_rank(source as usize, state.program)?;
            self.take(&state);
            self.has_state = true;
            sent
        };
        // Who writes knows best what is saved; the others were promised it.
        let mine = f64::from(u8::from(saved.is_some_and(|saved| self.progress.is_met_by(saved))));
        let any = Tensor::f_from_slice(&[mine])?.f_to_device(self.program.device())?;
        self.program.collective().all_reduce(&any, ReduceOp::Max)?;
        self.progress.settle(any.f_double_value(&[0])? > 0.0);
        Ok(sent)
    }

    fn state(&self) -> State {
        let EvalResult { top1, top5, loss, images, corrupt } = self.eval.unwrap_or_default();
        State {
            progress: self.progress.clone(),
            best: self.output.best.bits(),
            eval: self.eval.map(|_| [top1.to_bits(), top5.to_bits(), loss.to_bits(), images, corrupt]),
            estate: self.output.estate.clone(),
            program: self.program.place(),
            run: self.output.run.clone(),
            started_from: self.output.started_from.clone(),
            images: image_set(self.task.job),
        }
    }

    fn take(&mut self, state: &State) {
        self.progress = state.progress.clone();
        self.output.best = Best::of_bits(state.best);
        self.output.estate = state.estate.clone();
        self.output.run = state.run.clone();
        self.output.started_from = state.started_from.clone();
        self.eval = state.eval.map(|[top1, top5, loss, images, corrupt]| EvalResult {
            top1: f64::from_bits(top1),
            top5: f64::from_bits(top5),
            loss: f64::from_bits(loss),
            images,
            corrupt,
        });
    }

    /// The rank that speaks and writes is the first one; it may be another than before.
    fn take_output(&mut self, rank: u32) -> Result<(), TrainError> {
        if rank > 0 {
            return Ok(());
        }
        let config = self.task.config;
        if !self.reporter.speaks() {
            let (file, every) = (config.run.report_file.as_deref(), config.run.print_interval);
            self.reporter = Reporter::new(rank, file, true, every)?;
        }
        let Some(run) = self.output.run.clone().filter(|_| self.output.folder.is_none()) else {
            return Ok(());
        };
        let (root, estate) = (&config.run.output_dir, self.output.estate.clone());
        self.output.folder = Some(OwnedFolder::inherit(root, &host_name(), run, estate)?);
        Ok(())
    }
}
