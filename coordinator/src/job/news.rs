//! What is told of a transition ([`Told`]): what decisions say themselves, what follows from the records that are kept, and the
//! first step of a generation, once it is known what it took. Nothing is decided by it.

use super::{Job, Phase};
use crate::chronicle::happening::{ROSTER, Recovery};
use crate::chronicle::{Found, Happening, Told, Who, seconds};
use crate::config::CoordinatorConfig;
use crate::journal::Record;
use crate::membership::{Member, Now};
use crate::plan;
use octrain_proto::PARTED;
use octrain_proto::v1::{Abort, AbortKind, Arrival, Saver};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a worker's word is awaited on what came before a step that is finished.
const SOON: Duration = Duration::from_secs(2);

/// What is to be told, and what is known of the generation that runs or is to come. Times are this coordinator's.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct News {
    told: Vec<Told>,
    /// When the generation before was over; none of the first.
    over: Option<Now>,
    /// It ended between two steps, in good order.
    planned: bool,
    /// What it took to know of the worker whose loss ended it.
    detected: Option<Duration>,
    /// The same of the one that this one has lost last.
    lost: Option<Duration>,
    /// When this one was formed, and the step that it goes on from.
    formed: Option<(Now, u64)>,
    /// The furthest step of it, as its members say.
    reached: u64,
    /// When its first step was finished.
    stepped: Option<Now>,
    /// What its members have measured on the way there.
    arrival: Option<Arrival>,
    /// That was told.
    said: bool,
    /// The last step that was finished, and when.
    last: Option<(u64, Now)>,
    /// When the last one before this generation was.
    before: Option<Now>,
    /// Workers that have come to the running job and have been in no generation yet, by their names.
    coming: BTreeSet<String>,
}

impl News {
    /// A member of the current generation has finished so many steps.
    pub(super) fn reached(&mut self, step: u64) {
        self.reached = self.reached.max(step);
    }

    /// A member has measured how it came to the current generation; of several the first counts.
    pub(super) fn arrived(&mut self, arrival: Option<Arrival>) {
        let sound = |s: f64| s.is_finite() && s >= 0.0;
        let arrival = arrival.filter(|a| sound(a.connect_seconds) && sound(a.agree_seconds));
        self.arrival = self.arrival.or(arrival);
    }

    /// The one to come is formed, and goes on from a step.
    pub(super) fn formed(&mut self, now: Now, from: u64) {
        self.formed = Some((now, from));
    }

    /// All that came about under an earlier coordinator is known to that one alone.
    fn forget(&mut self) {
        let formed = self.formed.map(|(_, from)| (Now::ZERO, from));
        *self = Self { formed, reached: self.reached, said: true, ..Self::default() };
    }

    fn from(&self) -> u64 {
        self.formed.map_or(0, |(_, from)| from)
    }

    /// The first step of the current generation, once what it took is known, or is not awaited any more.
    fn first_step(&mut self, now: Now, awaited: bool) -> Option<Happening> {
        let (stepped, (formed, _)) = (self.stepped.filter(|_| !self.said)?, self.formed?);
        if awaited && self.over.is_some() && self.arrival.is_none() && now < stepped + SOON {
            return None;
        }
        self.said = true;
        let begun = self.over.unwrap_or(formed);
        let arrival = self.arrival.filter(|_| self.over.is_some());
        let rest =
            arrival.map(|a| seconds(stepped.saturating_sub(formed)) - a.connect_seconds - a.agree_seconds);
        Some(Happening::FirstStep(Recovery {
            step: self.from() + 1,
            planned: self.planned,
            detect_s: self.detected.map(seconds),
            abort_s: self.over.map(|over| seconds(formed.saturating_sub(over))),
            reform_s: arrival.map(|a| a.connect_seconds),
            transfer_s: arrival.map(|a| a.agree_seconds),
            step_s: rest.map(|s| s.max(0.0)),
            total_s: seconds(stepped.saturating_sub(begun)),
            still_s: self.before.map(|before| seconds(stepped.saturating_sub(before))),
        }))
    }
}

impl Job {
    /// All that came about under an earlier coordinator was told by that one.
    pub(super) fn told_before(&mut self) {
        self.news.forget();
        self.news.coming =
            self.members.iter().filter(|(_, m)| m.joins).map(|(name, _)| name.clone()).collect();
    }

    /// Something is to be told, of the current generation.
    pub(super) fn tell(&mut self, now: Now, what: Happening) {
        self.news.told.push(Told { at: now, generation: self.generation, what });
    }

    /// A worker is lost, and how that is known.
    pub(super) fn tell_lost(&mut self, now: Now, name: &str, found: Found, why: &str) {
        let Some(member) = self.members.get(name) else { return };
        let (worker, step) = (Who::from(member), member.step);
        let detected = now.saturating_sub(member.last_seen);
        match self.phase {
            // That a generation broke was known before who had broken it; who is lost behind that one, or behind a boundary, ended nothing.
            Phase::Reforming { .. } if self.news.planned => {}
            Phase::Reforming { .. } => self.news.detected = self.news.detected.or(Some(detected)),
            _ => self.news.lost = Some(detected),
        }
        let (why, detect_s) = (why.to_string(), seconds(detected));
        self.tell(now, Happening::WorkerLost { worker, found, why, detect_s, step });
    }

    /// Nobody depended on a worker that is gone.
    pub(super) fn tell_forgotten(&mut self, now: Now, member: &Member, why: &str) {
        self.tell(now, Happening::WorkerForgotten { worker: member.into(), why: why.into() });
    }

    /// The current generation is about to be over.
    pub(super) fn tell_over(&mut self, now: Now, why: &str) {
        look(now, self);
        if let Some(step) = self.news.first_step(now, false) {
            self.tell(now, step);
        }
        let News { formed, reached, lost, last, .. } = &self.news;
        let from = self.news.from();
        let ran_s = formed.map(|(formed, _)| seconds(now.saturating_sub(formed)));
        let (planned, steps) = (why.ends_with(PARTED), formed.map(|_| reached.saturating_sub(from)));
        let detected = lost.filter(|_| !planned);
        let (last, before) = (*last, last.map(|(_, at)| at));
        let over = Happening::GenerationOver { why: why.into(), planned, ran_s, steps };
        self.tell(now, over);
        let (told, coming) = (std::mem::take(&mut self.news.told), std::mem::take(&mut self.news.coming));
        self.news =
            News { told, coming, over: Some(now), planned, detected, last, before, ..News::default() };
    }

    /// The end of a job that had ended under an earlier coordinator, which may not have told of it; nothing of one that goes on.
    pub fn ended_before(&mut self, now: Now) -> Vec<Told> {
        if self.outcome().is_some() {
            end(now, self);
        }
        self.told()
    }

    /// What is to be told is taken away.
    pub(super) fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.news.told)
    }
}

/// Looks at the job after something has happened to it.
fn look(now: Now, job: &mut Job) {
    let news = &mut job.news;
    if !matches!(job.phase, Phase::Running { .. }) {
        return;
    }
    if news.reached > news.from() {
        news.stepped.get_or_insert(now);
        if news.last.is_none_or(|(step, _)| step < news.reached) {
            news.last = Some((news.reached, now));
        }
    }
}

/// What is told of a transition that `records` are kept of; `ended`: it has ended the job.
pub(super) fn follow(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    records: &[Record],
    ended: bool,
) -> Vec<Told> {
    for record in records {
        recorded(now, job, config, record);
    }
    look(now, job);
    let awaited = matches!(job.phase, Phase::Running { .. });
    if let Some(step) = job.news.first_step(now, awaited) {
        job.tell(now, step);
    }
    if ended {
        end(now, job);
    }
    job.told()
}

/// What follows from a record.
fn recorded(now: Now, job: &mut Job, config: &CoordinatorConfig, record: &Record) {
    let who = |job: &Job, name: &str| job.members.get(name).map(Who::from);
    let what = match record {
        Record::Admit(admit) => {
            let facts = &admit.facts;
            let (host, local_index, pid) = (facts.host.clone(), facts.local_index, facts.pid);
            let worker = Who { host, local_index, pid, rank: None };
            let present = job.members.values().filter(|m| m.lives()).count() as u32;
            let wanted = if admit.joins { job.room() as u32 } else { config.world_size };
            if admit.joins {
                job.news.coming.insert(admit.member.clone());
            }
            Some(Happening::WorkerRegistered { worker, joins: admit.joins, present, wanted })
        }
        Record::Plan(plan) => Some(Happening::PlanDecided {
            plan_sha256: plan::hash_text(plan),
            world_size: plan.world_size,
            min_world: plan.min_world,
            microbatches: plan.microbatches,
            microbatch_size: plan.microbatch_size,
            total_steps: plan.total_steps,
        }),
        Record::Generation(formed) => {
            let members: Vec<Who> = formed.members.iter().filter_map(|name| who(job, name)).collect();
            let joined = formed.formed.joined.clone();
            let step = job.news.from();
            let what = Happening::GenerationFormed {
                world_size: members.len() as u32,
                roster: members.iter().take(ROSTER).cloned().collect(),
                roster_left_out: members.len().saturating_sub(ROSTER),
                joined: joined.clone(),
                source: formed.formed.source,
                step,
            };
            job.tell(now, what);
            // One that was let in is said to join in each generation until it has the state; it comes once.
            for name in formed.members.iter().filter(|name| job.news.coming.remove(*name)).collect::<Vec<_>>()
            {
                if let Some(worker) = who(job, name) {
                    job.tell(now, Happening::WorkerJoined { worker });
                }
            }
            None
        }
        Record::Drained(drained) => {
            let was_in = !job.news.coming.remove(&drained.member);
            who(job, &drained.member).map(|worker| match was_in {
                true => Happening::WorkerDrained { worker, asked: drained.asked },
                false => {
                    Happening::WorkerForgotten { worker, why: "there is no room for it any more".into() }
                }
            })
        }
        Record::Resized(workers) => Some(Happening::Resized { workers: *workers }),
        Record::Left(left) => who(job, &left.member)
            .map(|worker| Happening::WorkerDone { worker, interrupted: left.interrupted }),
        Record::Suspected(said) => who(job, &said.member).map(|worker| Happening::CollectiveFailed {
            worker,
            waited: said.waited,
            why: said.message.clone(),
        }),
        Record::Gone(gone) => {
            job.news.coming.remove(&gone.member);
            None
        }
        // Told by whoever decided it, or nobody's news.
        Record::Run(_)
        | Record::Term(_)
        | Record::Opened(_)
        | Record::End(_)
        | Record::Closed(_)
        | Record::Tried(_) => None,
    };
    if let Some(what) = what {
        job.tell(now, what);
    }
}

/// The job has just ended.
fn end(now: Now, job: &mut Job) {
    let step = job.progress.0;
    let what = match &job.phase {
        Phase::Failed { abort, .. } => {
            let Abort { message, culprit, saver, .. } = abort;
            let blamed = |m: &&Member| m.rank.is_some() && m.rank == *culprit;
            let culprit = job.members.values().filter(blamed).max_by_key(|m| m.generation).map(Who::from);
            let saves = |m: &&Member| {
                let here = |s: &Saver| s.host == m.facts.host && s.local_index == m.facts.local_index;
                m.lives() && saver.as_ref().is_some_and(here)
            };
            let saver = job.members.values().find(saves).map(Who::from);
            let (kind, why) = (kind(abort.kind()), message.clone());
            Happening::JobFailed { kind, why, culprit, saver, step }
        }
        _ => Happening::JobFinished { interrupted: job.interrupted, step },
    };
    job.tell(now, what);
}

/// A cause of an end, as the event file names it.
fn kind(kind: AbortKind) -> &'static str {
    match kind {
        AbortKind::WorkerLost => "worker_lost",
        AbortKind::WorkerFailed => "worker_failed",
        AbortKind::RegisterTimeout => "register_timeout",
        AbortKind::Configuration => "configuration",
        AbortKind::Shutdown => "shutdown",
        AbortKind::NotFinite => "not_finite",
        AbortKind::External => "external",
        AbortKind::Dropped => "dropped",
    }
}

impl Phase {
    /// Its name, as the documentation has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Phase::Gathering => "gathering",
            Phase::Running { .. } => "running",
            Phase::Reforming { .. } => "reforming",
            Phase::Finished { .. } => "finished",
            Phase::Failed { .. } => "failed",
        }
    }
}
