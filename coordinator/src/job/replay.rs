//! A job and its journal: what is kept of it, and the job that follows from what was kept. Pure, both ways.
//!
//! A generation that runs goes on as it is: its members find their memberships again, each with a deadline of its own
//! (`UNHEARD`), and tell with their heartbeats how far they are. What they had told each other in the store is lost, which
//! they need only until they are connected and have the same state: if one asks for it, another generation is formed.

use super::{Answer, Applied, Event, Job, Outcome, Phase, StoreUse, failure, regroup};
use crate::config::CoordinatorConfig;
use crate::journal::Record;
use crate::journal::record::{Admit, Drained, End, Formed, Gone, Run};
use crate::liveness::UNHEARD;
use crate::membership::{Member, Now};
use crate::refusal::Refusal;
use crate::strategy::Gpu;
use octrain_proto::v1::{Abort, AbortKind, Header};
use std::time::Duration;

/// Where a job was before an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    runs: bool,
    gathers: bool,
    ended: bool,
    generation: u64,
}

impl At {
    pub(super) fn of(job: &Job) -> Self {
        Self {
            runs: matches!(job.phase, Phase::Running { .. }),
            gathers: matches!(job.phase, Phase::Gathering),
            ended: job.outcome().is_some(),
            generation: job.generation,
        }
    }
}

/// What is to be kept of an event that met the job as it was `before`.
pub(super) fn changes(job: &mut Job, before: At) -> Vec<Record> {
    let mut records = std::mem::take(&mut job.kept);
    match &job.phase {
        Phase::Running { formed, .. } if !before.runs || before.generation != job.generation => {
            if before.gathers {
                records.extend(job.plan.as_deref().cloned().map(Record::Plan));
            }
            let mut members: Vec<(&String, &Member)> =
                job.members.iter().filter(|(_, m)| m.counted() && m.generation == job.generation).collect();
            members.sort_by_key(|(_, m)| m.rank);
            let members = members.into_iter().map(|(name, _)| name.clone()).collect();
            let why = job.history.why();
            records.push(Record::Generation(Formed { formed: (**formed).clone(), members, why }));
        }
        Phase::Finished { interrupted, .. } if !before.ended => {
            records.push(Record::End(End { abort: None, interrupted: *interrupted }));
        }
        Phase::Failed { abort, .. } if !before.ended => {
            records.push(Record::End(End { abort: Some(abort.clone()), interrupted: false }));
        }
        _ => {}
    }
    records
}

/// A worker that was admitted.
pub(super) fn admitted(name: &str, m: &Member) -> Record {
    Record::Admit(Admit {
        member: name.into(),
        nonce: m.nonce.clone(),
        token: m.token.text().into(),
        facts: m.facts.clone(),
        spec: m.spec.clone(),
        joins: m.joins,
        cuda_device: m.gpu.as_ref().map(|gpu| gpu.ordinal),
        cuda_uuid: m.gpu.as_ref().map_or_else(String::new, |gpu| gpu.uuid.clone()),
    })
}

/// A worker that the job goes on without, or forgets.
pub(super) fn gone(name: &str, dropped: Option<&Abort>) -> Record {
    Record::Gone(Gone { member: name.into(), dropped: dropped.cloned() })
}

impl Job {
    /// Forgets a member, here and in the journal.
    pub(super) fn remove(&mut self, name: &str) -> Option<Member> {
        let member = self.members.remove(name)?;
        self.kept.push(gone(name, None));
        Some(member)
    }

    /// A member has said that it has the job's state.
    pub(super) fn has_state(&mut self, name: &str) {
        if let Some(member) = self.members.get_mut(name).filter(|m| m.untried) {
            member.untried = false;
            self.kept.push(Record::Tried(name.into()));
        }
    }

    /// The store of the current generation is asked for something.
    pub(super) fn uses_store(&mut self) {
        if self.store_use == StoreUse::None {
            self.store_use = StoreUse::Some;
            self.kept.push(Record::Opened(self.generation));
        }
    }
}

/// What a call for the store is answered with where an earlier coordinator's is lost: whoever asks has not found the others yet, or
/// has not their state, and another generation is formed. Where the job has no other one, it ends, and may be tried again.
pub(super) fn without_its_store(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    event: &Event,
) -> Option<Applied> {
    let header: &Header = match event {
        Event::StoreSet { header, .. }
        | Event::StoreGet { header, .. }
        | Event::StoreAdd { header, .. }
        | Event::StoreCheck { header, .. }
        | Event::StoreDelete { header, .. } => header,
        _ => return None,
    };
    if job.store_use != StoreUse::Lost || !matches!(job.phase, Phase::Running { .. }) {
        return None;
    }
    let caller = match job.caller(header, config) {
        Ok(member) => member.describe(),
        Err(refusal) => return Some(Err(refusal)),
    };
    let why = format!(
        "the coordinator was started anew while workers were connecting, and what they had told each other is lost; {caller} asks for it"
    );
    let stale = job.stale(header.generation, config);
    if job.survives {
        let reason = regroup::end(now, job, &why);
        return Some(Ok((Answer::Refuse(stale), Some(reason))));
    }
    let text = format!("{why}: start the job again");
    let reason = failure::fail(now, job, AbortKind::External, None, text);
    let refusal = match job.outcome() {
        Some(Outcome::Failed { abort }) => Refusal::Ended(abort),
        _ => stale,
    };
    Some(Ok((Answer::Refuse(refusal), reason)))
}

/// Why no job follows from a journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It is another one's, or this one was begun with other settings.
    #[error(
        "is of a run that was begun otherwise: {}; give this coordinator the same, or another journal",
        .0.join("; ")
    )]
    Differs(Vec<String>),
    /// All is over, and everybody knows.
    #[error(
        "is of a job that has ended: {0}; remove it, or name another one, to start the job again (workers go on from their last checkpoint)"
    )]
    Ended(String),
    /// Whole, and not written by this program.
    #[error(
        "cannot be made sense of at its record {number}: {what}; it was written by another version of Octrain: go on with that one, or remove it and start the job anew from its last checkpoint"
    )]
    Senseless {
        /// Counted from 0.
        number: usize,
        /// What does not fit.
        what: &'static str,
    },
}

/// A job, from its journal.
#[derive(Debug, PartialEq)]
pub struct Replayed {
    /// As a coordinator goes on with it that has just begun; it may have ended, and not everybody know.
    pub job: Job,
    /// Tells its run from others.
    pub run: u64,
    /// The term of the last coordinator.
    pub term: u64,
}

/// How a journal of this configuration begins.
pub fn run(config: &CoordinatorConfig, uid: u64) -> Run {
    Run {
        uid,
        job_id: config.job_id.clone(),
        generation: config.generation,
        world_size: config.world_size,
        min_world: config.min_world,
        max_world: config.max_world,
        heartbeat_timeout_ms: config.heartbeat_timeout.as_millis() as u64,
    }
}

/// In what a configuration differs from the one that a journal was begun with.
fn differences(config: &CoordinatorConfig, theirs: &Run) -> Vec<String> {
    let ours = run(config, theirs.uid);
    let most = [theirs.most(), ours.most()].map(|most| most.to_string());
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64().to_string();
    let all = [
        ("job-id", theirs.job_id.clone(), ours.job_id),
        ("generation", theirs.generation.to_string(), ours.generation.to_string()),
        ("world-size", theirs.world_size.to_string(), ours.world_size.to_string()),
        ("min-world", theirs.min_world.to_string(), ours.min_world.to_string()),
        ("max-world", most[0].clone(), most[1].clone()),
        ("heartbeat-timeout", seconds(theirs.heartbeat_timeout_ms), seconds(ours.heartbeat_timeout_ms)),
    ];
    let differing = all.into_iter().filter(|(_, theirs, ours)| theirs != ours);
    differing.map(|(flag, theirs, ours)| format!("--{flag} was {theirs}, and is {ours}")).collect()
}

/// The job that follows from what its coordinators have kept, for one that begins now.
pub fn replay(
    config: &CoordinatorConfig,
    incarnation: u64,
    records: &[Record],
) -> Result<Replayed, ReplayError> {
    let senseless = |number, what| ReplayError::Senseless { number, what };
    let Some((Record::Run(run), rest)) = records.split_first() else {
        return Err(senseless(0, "it does not say whose it is"));
    };
    let differences = differences(config, run);
    if !differences.is_empty() {
        return Err(ReplayError::Differs(differences));
    }
    let job = Job { unheard: unheard(config), ..Job::new(config, incarnation) };
    let mut replayed = Replayed { job, run: run.uid, term: 0 };
    for (number, record) in (1..).zip(rest) {
        if let Record::Closed(_) = record {
            let how = match replayed.job.outcome() {
                Some(Outcome::Failed { abort }) => abort.message,
                _ => "all its workers were done".into(),
            };
            return Err(ReplayError::Ended(how));
        }
        replayed.take(config, record).map_err(|what| senseless(number, what))?;
    }
    if replayed.term == 0 {
        return Err(senseless(records.len(), "it names no coordinator"));
    }
    replayed.job.told_before();
    Ok(replayed)
}

/// Where a job is that a coordinator goes on with, for people.
pub fn told(job: &Job) -> String {
    let here = job.members.values().filter(|m| m.lives()).count();
    let place = match &job.phase {
        Phase::Gathering => "it is gathering".into(),
        Phase::Running { .. } => format!("generation {} runs", job.generation),
        Phase::Reforming { why, .. } => {
            format!("generation {} is to be formed, since: {why}", job.generation)
        }
        Phase::Finished { .. } => "it has finished, of which not all have heard".into(),
        Phase::Failed { abort, .. } => {
            format!("it has ended, of which not all have heard: {}", abort.message)
        }
    };
    format!("{place}; {here} workers are expected to be heard")
}

impl Replayed {
    /// Takes in one record; the error is what does not fit.
    fn take(&mut self, config: &CoordinatorConfig, record: &Record) -> Result<(), &'static str> {
        let job = &mut self.job;
        let unknown = "it names a worker that was not admitted";
        match record {
            Record::Run(_) | Record::Closed(_) => return Err("another job begins"),
            Record::Term(term) if *term > self.term => self.term = *term,
            Record::Term(_) => return Err("a coordinator is no later than one before it"),
            Record::Admit(admit) => {
                job.registered += 1;
                job.members.insert(admit.member.clone(), member(config, admit));
            }
            Record::Plan(plan) => {
                super::register::hold(job, plan);
                job.plan = Some(Box::new(plan.clone()));
            }
            Record::Generation(formed) => form(job, formed)?,
            Record::Opened(generation) if *generation == job.generation => job.store_use = StoreUse::Lost,
            Record::Opened(_) => return Err("a store is of no generation"),
            Record::Gone(Gone { member, dropped: None }) => {
                job.members.remove(member).ok_or(unknown)?;
            }
            Record::Gone(Gone { member, dropped: Some(abort) }) => {
                let member = job.members.get_mut(member).ok_or(unknown)?;
                member.failed = true;
                member.dropped = Some(abort.clone());
                // Those who are left may have been told that their generation is over, or have yet to be.
                regroup::end(Now::ZERO, job, &abort.message);
            }
            Record::Left(left) => {
                job.members.get_mut(&left.member).ok_or(unknown)?.left = true;
                job.interrupted |= left.interrupted;
            }
            Record::Suspected(said) => {
                let member = job.members.get_mut(&said.member).ok_or(unknown)?;
                (member.failed, member.collectives) = (true, said.collectives);
                let Phase::Running { suspicion, .. } = &mut job.phase else {
                    return Err("a collective failed where no generation runs");
                };
                // Whoever is the root cause is to be missed first.
                failure::suspect(suspicion, said, unheard(config));
            }
            Record::Drained(Drained { member, asked }) => {
                let member = job.members.get_mut(member).ok_or(unknown)?;
                (member.drained, member.leaving) = (true, *asked);
            }
            Record::Resized(wanted) => job.wanted = Some(*wanted),
            Record::Tried(name) => job.members.get_mut(name).ok_or(unknown)?.untried = false,
            Record::End(End { abort: Some(abort), .. }) => {
                job.phase = Phase::Failed { at: Now::ZERO, abort: abort.clone() };
            }
            Record::End(End { abort: None, interrupted }) => {
                job.phase = Phase::Finished { at: Now::ZERO, interrupted: *interrupted };
            }
        }
        Ok(())
    }
}

/// Until when members have to be heard.
fn unheard(config: &CoordinatorConfig) -> Now {
    config.heartbeat_timeout * UNHEARD
}

/// A worker as it was admitted, with its time to be heard.
fn member(config: &CoordinatorConfig, admit: &Admit) -> Member {
    let Admit { nonce, token, facts, spec, joins, cuda_device, cuda_uuid, .. } = admit.clone();
    let gpu = cuda_device.map(|ordinal| Gpu { ordinal, uuid: cuda_uuid });
    let fresh = Member::new(Now::ZERO, nonce, token, facts, spec);
    let last_seen = unheard(config) - config.heartbeat_timeout;
    Member { last_seen, gpu, joins, untried: joins, ..fresh }
}

/// A generation that was formed.
fn form(job: &mut Job, kept: &Formed) -> Result<(), &'static str> {
    let Formed { formed, members, why } = kept;
    let plan = job.plan.as_deref().ok_or("a generation was formed without a plan")?;
    if formed.plan_sha256 != plan.sha256 {
        return Err("a generation is of another plan");
    }
    if formed.roster.len() != members.len() || formed.number < job.generation {
        return Err("a generation is not whole, or older than one before it");
    }
    for (place, name) in formed.roster.iter().zip(members) {
        let member = job.members.get_mut(name).ok_or("a generation has a worker that was not admitted")?;
        member.joins = false;
        member.untried &= formed.joined.contains(&place.rank);
        member.tries += u32::from(member.untried);
        (member.rank, member.generation) = (Some(place.rank), formed.number);
        member.gpu = place.cuda_device.map(|ordinal| Gpu { ordinal, uuid: place.cuda_uuid.clone() });
    }
    job.generation = formed.number;
    job.store_use = StoreUse::None;
    job.history.begun(formed.number, Now::ZERO, why);
    job.history.formed(Now::ZERO, members.len(), 0);
    let formed = Box::new(formed.clone());
    job.phase = Phase::Running { formed, since: Now::ZERO, suspicion: None };
    Ok(())
}
