//! The job as a state machine, pure: `step(now, state, config, event) -> (state', answer, effects, reason)`.
//!
//! ```text
//!              last worker registers     all are connected      all have left
//! Gathering -------------------> Forming(1) ----------> Running(1) ----------> Finished
//!     |  a lost worker                |  the job ends           | ^
//!     |  is forgotten                 |  with any worker:       | | all who are left have come:
//!     |                               |  one is lost or fails   | | Forming(g+1), then Running(g+1)
//!     |                               |                         v |
//!     |                               |                   Reforming(g+1, why): a worker is lost or
//!     |                               |                     |   has failed, or a collective has,
//!     | register timeout, a worker    |                     |   and at least `min_world` are left
//!     | fails, cannot be run,         |                     | fewer are left, or generations come
//!     | told to stop                  |                     | and go without a step
//!     '----------------> Failed <-----'---------------------'
//! ```
//! `Forming` and `Running` are one state ([`Phase::Running`]), told apart by whether every member has said that it is
//! connected, or that a step is finished, which nobody does alone. A job whose `min_world` is its size has one generation: it ends with any of its workers, and a failed
//! collective waits a moment for its root cause. What holds for the run (the plan, its hash, the number of
//! microbatches) is made once; a generation is its number, who is in it in which rank, and whose state all take on.
//!
//! A worker may leave a job that goes on (`drain.rs`), and come to one (`join.rs`): it has the plan, makes itself ready, and says so; the ranks are told that a
//! boundary is wanted, and leave their generation between two steps; it is a member of the next one, or is not any more. One that is
//! ready while a generation is being formed is a part of that.
//!
//! Each end has its exit code ([`crate::exit_code::of`]): `Finished` is done, or preempted where a worker left because
//! it was asked to; `Failed` says by its cause whether trying again helps.
//!
//! `now` is time that the coordinator observed: it stands still while the coordinator is stopped or starved, so that
//! every time-out above (silence, registration, root cause) is one of listening. Each passes in a tick.
//!
//! The first cause ends the job; what is heard later is kept beside it and never replaces it.

mod beat;
mod departure;
mod drain;
mod event;
mod failure;
mod hang;
mod history;
mod join;
mod news;
mod register;
mod regroup;
pub mod replay;
mod saver;
mod status;
mod straggler;
#[cfg(test)]
mod tests;
mod tick;

use crate::chronicle::{Happening, Told, seconds};
use crate::config::CoordinatorConfig;
use crate::journal::Record;
use crate::membership::{Member, Members, Now, missing};
use crate::ranks::Place;
use crate::refusal::Refusal;
use crate::store::Store;
pub use event::{Answer, Beat, Event, Heard, Outcome, Reply, Retirement, Wait, Wakes};
use octrain_proto::v1::{Abort, AbortKind, BuildPlan, Generation, GetPlanReply, Header, Regroup};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// Where the job is.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Workers register.
    Gathering,
    /// Everyone has the plan and the generation.
    Running {
        /// As rank 0 gets it.
        formed: Box<Generation>,
        /// Since when.
        since: Now,
        /// A collective failed and its root cause is awaited.
        suspicion: Option<Suspicion>,
    },
    /// A generation is over; those who are left come to the next one, which is [`Job::generation`] already.
    Reforming {
        /// Since when.
        since: Now,
        /// Why it is over.
        why: String,
    },
    /// All left.
    Finished {
        /// When.
        at: Now,
        /// At least one left because it was interrupted.
        interrupted: bool,
    },
    /// Ended by a cause.
    Failed {
        /// When.
        at: Now,
        /// Why.
        abort: Abort,
    },
}

/// A failed collective, perhaps the echo of another worker's end.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspicion {
    /// Until when the root cause is awaited.
    pub until: Now,
    /// Who reported it.
    pub member: String,
    /// What it said.
    pub message: String,
    /// Its collective did not fail: it waited in it until the deadline.
    pub waited: bool,
}

/// What became of the store of the current generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreUse {
    /// Nobody has asked it for anything.
    None,
    /// Workers have.
    Some,
    /// They had, and an earlier coordinator's it was: what it held is lost.
    Lost,
}

/// The state.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Where the job is.
    pub phase: Phase,
    /// Current generation, or the one that is being formed.
    pub generation: u64,
    /// What holds for the run, once it is decided.
    pub plan: Option<Box<BuildPlan>>,
    /// The largest step that a member has finished, and the generations formed since it was finished.
    progress: (u64, u32),
    /// A worker was lost since the last generation was formed.
    bereft: bool,
    /// What became of the generations.
    history: history::History,
    /// How fast it is, and whether it hangs.
    pace: hang::Pace,
    /// In which its workers' speeds are compared.
    window: straggler::Window,
    /// What is to be told of it.
    news: news::News,
    /// Who is in it.
    pub members: Members,
    /// It goes on without some of its workers.
    survives: bool,
    /// It was told to, and does not: why, for people.
    held: Option<&'static str>,
    /// How many workers it is to have, where somebody has said so since the start; else as many as come, up to `most`.
    wanted: Option<u32>,
    most: u32,
    /// Rendezvous data of the generation.
    pub store: Store,
    /// The coordinator's among those that the run has had; 0: it keeps no journal.
    pub term: u64,
    /// Whether the store was used.
    store_use: StoreUse,
    /// Until when those are to be heard whom an earlier coordinator admitted.
    unheard: Now,
    /// What the journal has yet to be told of.
    kept: Vec<Record>,
    /// Places and why their registrations were refused, newest last.
    pub refusals: VecDeque<(String, String)>,
    /// What was said after the job had failed.
    pub echoes: Vec<String>,
    /// Who is not registered and knows all the same that the job, which never began, has ended: who ended it, and who
    /// came later.
    told: HashSet<Place>,
    /// When somebody last asked who wants to hear the end.
    watched: Option<Now>,
    /// The coordinator was told to stop, before the job's end or after it.
    told_to_stop: bool,
    /// Distinguishes this coordinator process from earlier ones at the same address.
    incarnation: u64,
    /// When this coordinator last went on after it had stood still, and for how long it had.
    held_up: Option<(Now, Duration)>,
    registered: u64,
    interrupted: bool,
}

/// One transition.
#[derive(Debug)]
pub struct Step {
    /// The next state.
    pub job: Job,
    /// What the caller gets.
    pub answer: Answer,
    /// The job has just ended so; everyone who watches is to be told.
    pub ended: Option<Outcome>,
    /// A generation has just ended; everyone who watches is to be told.
    pub regroup: Option<Regroup>,
    /// What is to stand in the journal before anybody is told of any of it.
    pub records: Vec<Record>,
    /// Whom to ask again.
    pub wakes: Wakes,
    /// Why the state changed, for logs; none when nothing of note happened.
    pub reason: Option<String>,
    /// What has happened, for whoever watches the job.
    pub told: Vec<Told>,
}

impl Job {
    /// A job nobody has joined.
    pub fn new(config: &CoordinatorConfig, incarnation: u64) -> Self {
        Self {
            phase: Phase::Gathering,
            generation: config.generation,
            plan: None,
            progress: (0, 0),
            bereft: false,
            history: Default::default(),
            pace: Default::default(),
            window: Default::default(),
            news: Default::default(),
            members: Members::new(),
            survives: config.survives(),
            held: None,
            wanted: None,
            most: config.max_world,
            store: Store::default(),
            term: 0,
            store_use: StoreUse::None,
            unheard: Now::ZERO,
            kept: Vec::new(),
            refusals: VecDeque::new(),
            echoes: Vec::new(),
            told: HashSet::new(),
            watched: None,
            told_to_stop: false,
            incarnation,
            held_up: None,
            registered: 0,
            interrupted: false,
        }
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.phase {
            Phase::Finished { interrupted, .. } => Some(Outcome::Finished { interrupted: *interrupted }),
            Phase::Failed { abort, .. } => Some(Outcome::Failed { abort: abort.clone() }),
            _ => None,
        }
    }

    /// Whose membership a call is of, in whichever generation.
    fn member(&mut self, header: &Header, config: &CoordinatorConfig) -> Result<&mut Member, Refusal> {
        if header.job_id != config.job_id {
            return Err(Refusal::Job { theirs: header.job_id.clone(), ours: config.job_id.clone() });
        }
        // Generations before the first are those of another coordinator.
        if !(config.generation..=self.generation).contains(&header.generation) {
            return Err(self.stale(header.generation, config));
        }
        match self.members.get_mut(&header.member) {
            Some(m) if m.left => Err(Refusal::Left { member: header.member.clone() }),
            Some(m) => Ok(m),
            None => Err(Refusal::Unknown { member: header.member.clone() }),
        }
    }

    fn stale(&self, theirs: u64, config: &CoordinatorConfig) -> Refusal {
        Refusal::Stale { theirs, ours: self.generation, job: config.job_id.clone() }
    }

    /// Checks who is calling, and that it is of the current generation.
    fn caller(&mut self, header: &Header, config: &CoordinatorConfig) -> Result<&mut Member, Refusal> {
        let stale = self.stale(header.generation, config);
        let current = self.generation;
        let member = self.member(header, config)?;
        match &member.dropped {
            Some(abort) => Err(Refusal::Ended(abort.clone())),
            None if member.joins => Err(Refusal::NotRunning),
            None if header.generation != current || member.drained => Err(stale),
            None => Ok(member),
        }
    }

    /// Checks who is calling, that it lives, and that the job runs.
    fn running(
        &mut self,
        now: Now,
        header: &Header,
        config: &CoordinatorConfig,
        wait: Wait,
    ) -> Result<&mut Store, Refusal> {
        let member = self.caller(header, config)?;
        if wait == Wait::First {
            member.heard(now);
            member.spoke(header.generation);
        }
        match &self.phase {
            Phase::Running { .. } => {
                self.uses_store();
                Ok(&mut self.store)
            }
            Phase::Gathering | Phase::Reforming { .. } => Err(Refusal::NotRunning),
            Phase::Finished { .. } => Err(Refusal::Finished),
            Phase::Failed { abort, .. } => Err(Refusal::Ended(abort.clone())),
        }
    }
}

impl Member {
    fn heard(&mut self, now: Now) {
        self.last_seen = now;
        self.disconnected = None;
    }

    /// It has said something that only one can say who has its place in a generation.
    fn spoke(&mut self, generation: u64) {
        self.spoken = self.spoken.max(generation.min(self.generation));
    }
}

/// The transition. See the module's diagram.
pub fn step(now: Now, mut job: Job, config: &CoordinatorConfig, event: Event) -> Step {
    let before = replay::At::of(&job);
    let had_ended = job.outcome().is_some();
    let (phase, generation) = (std::mem::discriminant(&job.phase), job.generation);
    let key = match &event {
        Event::StoreSet { key, .. } | Event::StoreAdd { key, .. } => Some(key.clone()),
        _ => None,
    };
    let (answer, reason) = match apply(now, &mut job, config, event) {
        Ok((answer, reason)) => (answer, reason),
        Err(refusal) => (Answer::Refuse(refusal), None),
    };
    let mut history = std::mem::take(&mut job.history);
    history.look(now, &job);
    job.history = history;
    let ended = if had_ended { None } else { job.outcome() };
    let wakes = match (key, &answer) {
        _ if std::mem::discriminant(&job.phase) != phase || job.generation != generation => Wakes::Everybody,
        (Some(key), Answer::Reply(_)) => Wakes::Key(key),
        _ => Wakes::Nobody,
    };
    let regroup = job.told_after(generation);
    let records = replay::changes(&mut job, before);
    let told = news::follow(now, &mut job, config, &records, ended.is_some());
    Step { job, answer, ended, regroup, records, wakes, reason, told }
}

type Applied = Result<(Answer, Option<String>), Refusal>;

fn done(reason: Option<String>) -> Applied {
    Ok((Answer::Reply(Reply::Done), reason))
}

fn apply(now: Now, job: &mut Job, config: &CoordinatorConfig, event: Event) -> Applied {
    if let Some(refused) = replay::without_its_store(now, job, config, &event) {
        return refused;
    }
    match event {
        Event::Register(request) => register::register(now, job, config, *request),
        Event::GiveUp(request) => register::give_up(now, job, config, *request),
        Event::GetPlan { header, wait } => get_plan(now, job, config, &header, wait),
        Event::Heartbeat(header, beat) => beat::heard(now, job, config, &header, beat),
        Event::Attach { header, standing, message, wait } => {
            regroup::attach(now, job, config, &header, standing, (&message, wait))
        }
        Event::Exited(request) => regroup::exited(now, job, config, &request),
        Event::Resize { workers } => drain::resize(job, config, workers),
        Event::Watch { header } => {
            let member = job.member(&header, config)?;
            member.heard(now);
            member.watches += 1;
            let watch = member.watches;
            Ok((Answer::Reply(Reply::Watching { member: header.member, watch }), None))
        }
        Event::Disconnected { member, watch } => Ok((Answer::None, disconnected(now, job, &member, watch))),
        Event::ReportStep { header, report } => {
            let member = job.caller(&header, config)?;
            member.heard(now);
            member.spoke(header.generation);
            member.step = member.step.max(report.step);
            member.report = Some(report);
            job.news.arrived(report.arrival);
            if report.step > 0 {
                job.has_state(&header.member);
            }
            job.progressed(header.generation, report.step);
            done(None)
        }
        Event::ReportFailure { header, message, kind } => {
            job.member(&header, config)?.heard(now);
            let who = (header.member.as_str(), header.generation);
            done(failure::reported(now, job, config, who, message, kind))
        }
        Event::Leave { header, interrupted, before_plan } => {
            departure::leave(now, job, config, &header, interrupted, before_plan)
        }
        Event::StoreSet { header, key, value } => {
            job.running(now, &header, config, Wait::First)?.set(&key, value)?;
            done(None)
        }
        Event::StoreGet { header, key, wait } => {
            let value = job.running(now, &header, config, wait)?.get(&key).map(<[u8]>::to_vec);
            match (value, wait) {
                (None, Wait::First | Wait::Again) => Ok((Answer::Park, None)),
                (value, _) => Ok((Answer::Reply(Reply::Found(value)), None)),
            }
        }
        Event::StoreAdd { header, key, amount } => {
            let sum = job.running(now, &header, config, Wait::First)?.add(&key, amount)?;
            Ok((Answer::Reply(Reply::Sum(sum)), None))
        }
        Event::StoreCheck { header, keys } => {
            let all = job.running(now, &header, config, Wait::First)?.check(&keys);
            Ok((Answer::Reply(Reply::Yes(all)), None))
        }
        Event::StoreDelete { header, key } => {
            let existed = job.running(now, &header, config, Wait::First)?.delete(&key);
            Ok((Answer::Reply(Reply::Yes(existed)), None))
        }
        Event::Status { watching } => {
            job.watched = watching.then_some(now).or(job.watched);
            Ok((Answer::Reply(Reply::Status(Box::new(status::status(now, job, config)))), None))
        }
        Event::Tick => Ok((Answer::None, tick::tick(now, job, config))),
        Event::HeldUp { by } => {
            job.held_up = Some((now, by));
            job.tell(now, Happening::CoordinatorHeldUp { held_s: seconds(by) });
            Ok((Answer::None, None))
        }
        Event::Shutdown { why } => {
            job.told_to_stop = true;
            let reason = failure::fail(
                now,
                job,
                AbortKind::Shutdown,
                None,
                format!("the coordinator was stopped: {why}"),
            );
            Ok((Answer::None, reason))
        }
    }
}

fn get_plan(now: Now, job: &mut Job, config: &CoordinatorConfig, header: &Header, wait: Wait) -> Applied {
    let (stale, current, survives) = (job.stale(header.generation, config), job.generation, job.survives);
    let member = job.member(header, config)?;
    if let Some(abort) = &member.dropped {
        member.told = true;
        return Err(Refusal::Ended(abort.clone()));
    }
    if member.joins || member.drained {
        return join::plan(now, job, header);
    }
    // Another worker was lost before this one had its plan: it comes to the next generation like the others.
    if header.generation != current && !survives {
        return Err(stale);
    }
    if wait == Wait::First {
        member.heard(now);
    }
    let reason = regroup::come_without_plan(now, job, &header.member);
    let member = job.member(header, config)?;
    // Just now, as the last one that was waited for.
    if member.drained {
        return join::plan(now, job, header);
    }
    let rank = member.rank.filter(|_| member.generation == current);
    let reply = match (&job.phase, rank) {
        (Phase::Running { formed, .. }, Some(rank)) => GetPlanReply {
            plan: job.plan.as_deref().cloned(),
            generation: Some(Generation { rank, ..(**formed).clone() }),
            ..GetPlanReply::default()
        },
        (Phase::Failed { abort, .. }, _) => return Err(Refusal::Ended(abort.clone())),
        (Phase::Finished { .. }, _) => return Err(Refusal::Finished),
        (Phase::Running { .. }, None) => return Err(stale),
        (Phase::Reforming { .. }, _) if wait == Wait::Expired => {
            GetPlanReply { waiting_for: regroup::awaited(job), ..GetPlanReply::default() }
        }
        _ if wait == Wait::Expired => {
            let waiting_for = missing(config, &job.members).unwrap_or_default();
            GetPlanReply { waiting_for, ..GetPlanReply::default() }
        }
        _ => return Ok((Answer::Park, reason)),
    };
    Ok((Answer::Reply(Reply::Plan(Box::new(reply))), reason))
}

fn disconnected(now: Now, job: &mut Job, name: &str, watch: u64) -> Option<String> {
    let ended = job.outcome().is_some();
    let member = job.members.get_mut(name).filter(|m| m.watches == watch)?;
    member.told |= ended;
    if !member.lives() || ended {
        return None;
    }
    member.disconnected.get_or_insert(now);
    Some(format!("{}: connection broke, waiting for a sign of life", member.describe()))
}
