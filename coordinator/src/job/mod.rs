//! The job as a state machine, pure: `step(now, state, config, event) -> (state', answer, effects, reason)`.
//!
//! ```text
//!              last worker registers                      all have left
//! Gathering ------------------------------> Running ----------------------> Finished
//!     |  a lost worker is forgotten            |
//!     |                                        | a worker is lost, or says that it failed
//!     | register timeout, a worker fails or    | (a failed collective waits a moment for its root cause),
//!     | cannot be run as configured,           | told to stop
//!     | strategy cannot be met, told to stop   |
//!     '----------------> Failed <--------------'
//! ```
//! Each end has its exit code ([`crate::exit_code::of`]): `Finished` is done, or preempted where a worker left because
//! it was asked to; `Failed` says by its cause whether trying again helps.
//!
//! `now` is time that the coordinator observed: it stands still while the coordinator is stopped or starved, so that
//! every time-out above (silence, registration, root cause) is one of listening. Each passes in a tick.
//!
//! The first cause ends the job; what is heard later is kept beside it and never replaces it.

mod departure;
mod failure;
mod register;
mod status;
#[cfg(test)]
mod tests;

use crate::config::CoordinatorConfig;
use crate::membership::{Member, Members, Now, missing};
use crate::plan;
use crate::ranks::Place;
use crate::refusal::Refusal;
use crate::store::Store;
use octrain_proto::v1::{
    Abort, AbortKind, BuildPlan, FailureKind, GetPlanReply, GiveUpRequest, Header, RegisterReply,
    RegisterRequest, StatusReply, StepReport,
};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// Where the job is.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Workers register.
    Gathering,
    /// Everyone has the plan.
    Running {
        /// As rank 0 gets it.
        plan: Box<BuildPlan>,
        /// A collective failed and its root cause is awaited.
        suspicion: Option<Suspicion>,
    },
    /// All left.
    Finished {
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

/// The state.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Where the job is.
    pub phase: Phase,
    /// Current generation.
    pub generation: u64,
    /// Who is in it.
    pub members: Members,
    /// Rendezvous data of the generation.
    pub store: Store,
    /// Places and why their registrations were refused, newest last.
    pub refusals: VecDeque<(String, String)>,
    /// What was said after the job had failed.
    pub echoes: Vec<String>,
    /// Who is not registered and knows all the same that the job, which never began, has ended: who ended it, and who
    /// came later.
    told: HashSet<Place>,
    /// The coordinator was told to stop, before the job's end or after it.
    told_to_stop: bool,
    /// Distinguishes this coordinator process from earlier ones at the same address.
    incarnation: u64,
    /// When this coordinator last went on after it had stood still, and for how long it had.
    held_up: Option<(Now, Duration)>,
    registered: u64,
    interrupted: bool,
}

/// How often a call that may wait was asked. Only the first time is a sign of life of the caller; later ones are
/// the coordinator's own asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// By the caller.
    First,
    /// After a change.
    Again,
    /// The caller's time is up.
    Expired,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Event {
    Register(Box<RegisterRequest>),
    GiveUp(Box<GiveUpRequest>),
    GetPlan {
        header: Header,
        wait: Wait,
    },
    Heartbeat {
        header: Header,
        step: u64,
        collectives: u64,
    },
    Watch {
        header: Header,
    },
    /// A watch broke.
    Disconnected {
        member: String,
        watch: u64,
    },
    ReportStep {
        header: Header,
        report: StepReport,
    },
    ReportFailure {
        header: Header,
        message: String,
        kind: FailureKind,
    },
    Leave {
        header: Header,
        interrupted: bool,
        before_plan: bool,
    },
    StoreSet {
        header: Header,
        key: String,
        value: Vec<u8>,
    },
    StoreGet {
        header: Header,
        key: String,
        wait: Wait,
    },
    StoreAdd {
        header: Header,
        key: String,
        amount: i64,
    },
    StoreCheck {
        header: Header,
        keys: Vec<String>,
    },
    StoreDelete {
        header: Header,
        key: String,
    },
    Status,
    /// Time has passed, and everything that had arrived was taken in. Comes every [`crate::clock::TICK`].
    Tick,
    /// This coordinator stood still (stopped, starved, its machine suspended) for so long.
    HeldUp {
        by: Duration,
    },
    /// The coordinator is told to stop.
    Shutdown {
        why: String,
    },
}

/// What a caller gets.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Reply {
    Registered(RegisterReply),
    Plan(Box<GetPlanReply>),
    Heartbeat(Option<Abort>),
    Watching { member: String, watch: u64 },
    Done,
    Found(Option<Vec<u8>>),
    Sum(i64),
    Yes(bool),
    Status(Box<StatusReply>),
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Answered.
    Reply(Reply),
    /// Refused.
    Refuse(Refusal),
    /// Not yet: ask again after the next change, or with `expired` when the caller's time is up.
    Park,
    /// Nobody asked.
    None,
}

/// Which of the parked calls may have become answerable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wakes {
    /// None.
    Nobody,
    /// Those that wait for this key of the store.
    Key(String),
    /// All: the job has started, or ended.
    Everybody,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All workers left.
    Finished {
        /// At least one because it was interrupted.
        interrupted: bool,
    },
    /// By the first cause.
    Failed {
        /// The cause, naming the culprit.
        abort: Abort,
    },
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
    /// Whom to ask again.
    pub wakes: Wakes,
    /// Why the state changed, for logs; none when nothing of note happened.
    pub reason: Option<String>,
}

impl Job {
    /// A job nobody has joined.
    pub fn new(config: &CoordinatorConfig, incarnation: u64) -> Self {
        Self {
            phase: Phase::Gathering,
            generation: config.generation,
            members: Members::new(),
            store: Store::default(),
            refusals: VecDeque::new(),
            echoes: Vec::new(),
            told: HashSet::new(),
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
            Phase::Finished { interrupted } => Some(Outcome::Finished { interrupted: *interrupted }),
            Phase::Failed { abort, .. } => Some(Outcome::Failed { abort: abort.clone() }),
            _ => None,
        }
    }

    /// Checks who is calling.
    fn caller(&mut self, header: &Header, config: &CoordinatorConfig) -> Result<&mut Member, Refusal> {
        if header.job_id != config.job_id {
            return Err(Refusal::Job { theirs: header.job_id.clone(), ours: config.job_id.clone() });
        }
        if header.generation != self.generation {
            return Err(Refusal::Stale {
                theirs: header.generation,
                ours: self.generation,
                job: config.job_id.clone(),
            });
        }
        match self.members.get_mut(&header.member) {
            Some(m) if m.left => Err(Refusal::Left { member: header.member.clone() }),
            Some(m) => Ok(m),
            None => Err(Refusal::Unknown { member: header.member.clone() }),
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
        }
        match &self.phase {
            Phase::Running { .. } => Ok(&mut self.store),
            Phase::Gathering => Err(Refusal::NotRunning),
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
}

/// The transition. See the module's diagram.
pub fn step(now: Now, mut job: Job, config: &CoordinatorConfig, event: Event) -> Step {
    let had_ended = job.outcome().is_some();
    let phase = std::mem::discriminant(&job.phase);
    let key = match &event {
        Event::StoreSet { key, .. } | Event::StoreAdd { key, .. } => Some(key.clone()),
        _ => None,
    };
    let (answer, reason) = match apply(now, &mut job, config, event) {
        Ok((answer, reason)) => (answer, reason),
        Err(refusal) => (Answer::Refuse(refusal), None),
    };
    let ended = if had_ended { None } else { job.outcome() };
    let wakes = match (key, &answer) {
        _ if std::mem::discriminant(&job.phase) != phase => Wakes::Everybody,
        (Some(key), Answer::Reply(_)) => Wakes::Key(key),
        _ => Wakes::Nobody,
    };
    Step { job, answer, ended, wakes, reason }
}

type Applied = Result<(Answer, Option<String>), Refusal>;

fn done(reason: Option<String>) -> Applied {
    Ok((Answer::Reply(Reply::Done), reason))
}

fn apply(now: Now, job: &mut Job, config: &CoordinatorConfig, event: Event) -> Applied {
    match event {
        Event::Register(request) => register::register(now, job, config, *request),
        Event::GiveUp(request) => register::give_up(now, job, config, *request),
        Event::GetPlan { header, wait } => get_plan(now, job, config, &header, wait),
        Event::Heartbeat { header, step, collectives } => {
            let abort = match &job.phase {
                Phase::Failed { abort, .. } => Some(abort.clone()),
                _ => None,
            };
            let member = job.caller(&header, config)?;
            member.heard(now);
            member.step = member.step.max(step);
            member.collectives = member.collectives.max(collectives);
            member.told |= abort.is_some();
            Ok((Answer::Reply(Reply::Heartbeat(abort)), None))
        }
        Event::Watch { header } => {
            let member = job.caller(&header, config)?;
            member.heard(now);
            member.watches += 1;
            let watch = member.watches;
            Ok((Answer::Reply(Reply::Watching { member: header.member, watch }), None))
        }
        Event::Disconnected { member, watch } => Ok((Answer::None, disconnected(now, job, &member, watch))),
        Event::ReportStep { header, report } => {
            let member = job.caller(&header, config)?;
            member.heard(now);
            member.step = member.step.max(report.step);
            member.report = Some(report);
            done(None)
        }
        Event::ReportFailure { header, message, kind } => {
            job.caller(&header, config)?.heard(now);
            done(failure::reported(now, job, config, &header.member, message, kind))
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
        Event::Status => Ok((Answer::Reply(Reply::Status(Box::new(status::status(now, job, config)))), None)),
        Event::Tick => Ok((Answer::None, failure::tick(now, job, config))),
        Event::HeldUp { by } => {
            job.held_up = Some((now, by));
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
    let member = job.caller(header, config)?;
    let rank = member.rank;
    if wait == Wait::First {
        member.heard(now);
    }
    let reply = match (&job.phase, rank) {
        (Phase::Running { plan, .. }, Some(rank)) => {
            GetPlanReply { plan: Some(plan::for_rank(plan, rank)), waiting_for: String::new() }
        }
        (Phase::Failed { abort, .. }, _) => return Err(Refusal::Ended(abort.clone())),
        (Phase::Finished { .. }, _) => return Err(Refusal::Finished),
        _ if wait == Wait::Expired => {
            GetPlanReply { plan: None, waiting_for: missing(config, &job.members).unwrap_or_default() }
        }
        _ => return Ok((Answer::Park, None)),
    };
    Ok((Answer::Reply(Reply::Plan(Box::new(reply))), None))
}

fn disconnected(now: Now, job: &mut Job, name: &str, watch: u64) -> Option<String> {
    let ended = job.outcome().is_some();
    let member = job.members.get_mut(name).filter(|m| m.watches == watch)?;
    member.told |= ended;
    if !member.counted() || ended {
        return None;
    }
    member.disconnected.get_or_insert(now);
    Some(format!("{}: connection broke, waiting for a sign of life", member.describe()))
}
