//! Workers that come to a job which runs, in the place of one that was lost.
//!
//! ```text
//! Register           refused, or a member that `joins`: it is in no generation, and nothing depends on it
//! GetPlan            the plan at once, and its own place alone: it builds what it trains
//! Attach             it is ready, and waits
//! (heartbeats)       those who run are told that a boundary is wanted; the ranks agree on it as they add up, and attach
//! form               it is a part of the next generation, whose source is one of those who ran
//! ```
//! One that dies before it is formed with is forgotten, and so is one that does not get ready. After that it is a worker like the
//! others; but until it has said that it has the job's state (`Member::untried`) it neither keeps the job going nor saves, what it
//! says of itself is its own ([`super::failure::reported`]), and where generations break with it, or do not connect, it is left out.

use super::{Answer, Applied, Job, Phase, Reply, Wait, drain, failure, regroup};
use crate::chronicle::{Found, Happening, Who};
use crate::config::CoordinatorConfig;
use crate::liveness::Lost;
use crate::membership::{Member, Now};
use crate::plan;
use crate::ranks::{self, Place};
use crate::refusal::Refusal;
use crate::strategy::Gpu;
use octrain_core::strategy::Device;
use octrain_proto::v1::{Abort, GetPlanReply, Header, Placement, WorkerFacts};

/// Whether workers can come to a job as it is now at all.
pub(super) fn possible(job: &Job) -> bool {
    job.survives && matches!(job.phase, Phase::Running { .. } | Phase::Reforming { .. })
}

/// Whether there is room in a running job for a worker at this place.
pub(super) fn vacant(now: Now, job: &Job, config: &CoordinatorConfig, place: &Place) -> Result<(), Refusal> {
    // The others are about to leave as well.
    if job.members.values().any(|m| m.left && !m.failed) {
        return Err(Refusal::Finished);
    }
    if !config.expected.is_empty() && !config.expected.contains(place) {
        let expected = config.expected.iter().map(Place::to_string).collect::<Vec<_>>().join(", ");
        return Err(Refusal::Unexpected { place: place.clone(), expected });
    }
    if let Some(other) = job.members.values().find(|m| m.lives() && m.place() == *place) {
        return Err(Refusal::Duplicate {
            place: place.clone(),
            pid: other.facts.pid,
            silent_ms: now.saturating_sub(other.last_seen).as_millis() as u64,
        });
    }
    let room = job.room();
    if job.members.values().filter(|m| m.lives()).count() >= room {
        return Err(Refusal::Full { job: config.job_id.clone(), world: room as u32 });
    }
    Ok(())
}

/// The GPU of a worker that comes to a running job, of those that it sees and no living worker has: that of the worker it replaces,
/// else one that was nobody's, else any. Where ranks share GPUs all are taken, and it has its predecessor's. None in a job on CPUs.
pub(super) fn gpu(job: &Job, place: &Place, facts: &WorkerFacts) -> Result<Option<Gpu>, Refusal> {
    if job.plan.as_deref().is_none_or(|plan| plan.device() == Device::Cpu) {
        return Ok(None);
    }
    let sees = facts.capabilities.as_ref().map_or(&[][..], |c| &c.cuda_devices);
    let seen = |uuid: &str| sees.iter().position(|d| d.uuid == uuid);
    let of = |m: &Member| m.gpu.as_ref().map(|gpu| gpu.uuid.clone());
    let replaced =
        job.members.values().filter(|m| m.place() == *place).filter_map(of).find(|u| seen(u).is_some());
    let of_all = |lives: bool| -> Vec<String> {
        job.members.values().filter(|m| m.lives() || !lives).filter_map(of).collect()
    };
    let (taken, known) = (of_all(true), of_all(false));
    let free = |taken: &[String]| sees.iter().map(|d| d.uuid.clone()).find(|uuid| !taken.contains(uuid));
    let own = replaced.clone().filter(|uuid| !taken.contains(uuid));
    let uuid = own.or_else(|| free(&known)).or_else(|| free(&taken)).or(replaced).ok_or_else(|| {
        Refusal::Configuration(format!(
            "{place} sees {} GPUs, and none that no other worker has: the job has one for each of its workers",
            sees.len()
        ))
    })?;
    let ordinal = seen(&uuid).unwrap_or_default() as u32;
    Ok(Some(Gpu { ordinal, uuid }))
}

/// Why one that comes hears no more of a job that has ended.
fn over(job: &mut Job, name: &str) -> Result<(), Refusal> {
    let refusal = match &job.phase {
        Phase::Finished { .. } => Refusal::Finished,
        Phase::Failed { abort, .. } => Refusal::Ended(Abort::clone(abort)),
        _ => return Ok(()),
    };
    if let Some(m) = job.members.get_mut(name) {
        m.told = true;
    }
    Err(refusal)
}

/// The plan for one that comes, and its own place.
pub(super) fn plan(now: Now, job: &mut Job, header: &Header) -> Applied {
    over(job, &header.member)?;
    let (Some(plan), Some(member)) = (job.plan.as_deref(), job.members.get_mut(&header.member)) else {
        return Err(Refusal::NotRunning);
    };
    member.heard(now);
    // There is no room for it any more.
    if member.drained {
        member.told = true;
        return Err(Refusal::Full { job: plan.job_id.clone(), world: job.room() as u32 });
    }
    let mut roster = ranks::assign(&[member.place()]);
    for (place, gpu) in roster.iter_mut().zip(&member.gpu) {
        (place.cuda_device, place.cuda_uuid) = (Some(gpu.ordinal), gpu.uuid.clone());
    }
    let alone = plan::generation(plan, header.generation, roster, None);
    let reply = GetPlanReply {
        plan: Some(plan.clone()),
        generation: Some(alone),
        joins: true,
        ..GetPlanReply::default()
    };
    Ok((Answer::Reply(Reply::Plan(Box::new(reply))), None))
}

/// One that comes is ready, and waits for the generation that it is a part of.
pub(super) fn attach(now: Now, job: &mut Job, header: &Header, wait: Wait) -> Applied {
    if let Some(member) = job.members.get_mut(&header.member).filter(|m| m.drained) {
        member.told = true;
        return Ok((Answer::Reply(Reply::Drained), None));
    }
    over(job, &header.member)?;
    let member = job.members.get_mut(&header.member);
    let member = member.ok_or_else(|| Refusal::Unknown { member: header.member.clone() })?;
    if wait == Wait::First {
        member.heard(now);
    }
    let mut reasons = Vec::new();
    if member.attached.is_none() {
        member.attached = Some(None);
        reasons.push(format!("{} is ready to join, at the next boundary", member.describe()));
        let worker = Who::from(&*member);
        job.tell(now, Happening::WorkerReady { worker });
    }
    reasons.extend(regroup::form(now, job));
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    let (joins, rank) = job.members.get(&header.member).map_or((true, None), |m| (m.joins, m.rank));
    let answer = match &job.phase {
        Phase::Running { formed, .. } if !joins => Answer::Reply(regroup::attached(formed, rank)),
        Phase::Failed { abort, .. } => Answer::Refuse(Refusal::Ended(abort.clone())),
        _ if wait == Wait::Expired => {
            let text = "the workers that run, which let it in between two steps";
            Answer::Reply(Reply::Attached(None, text.into()))
        }
        _ => Answer::Park,
    };
    Ok((answer, reason))
}

/// Generations that one is let into without taking on the job's state; then it is what breaks them.
pub(super) const TRIES: u32 = 2;

/// Those of whom a generation was formed with some that came to it have not found each other in time: it is they, as the others
/// had before.
pub(super) fn unconnected(now: Now, job: &mut Job, config: &CoordinatorConfig) -> Option<String> {
    if job.is_connected() {
        return None;
    }
    let untried = job.members.iter().find(|(_, m)| m.counted() && m.untried);
    let member = untried.map(|(name, _)| name.clone())?;
    let cause = format!(
        "it was let in, and not all were connected within {:.0} s: look at the address that the others reach it at",
        config.regroup_timeout.as_secs_f64()
    );
    failure::lose(now, job, config, &Lost { member, cause, found: Found::NotConnected }, None)
}

/// Those that come and do not make themselves ready within the time that there is to register are not waited for: the place is
/// another's.
pub(super) fn overdue(now: Now, job: &mut Job, config: &CoordinatorConfig) -> Option<String> {
    let late = |m: &Member| m.joins && m.attached.is_none() && now >= m.since + config.register_timeout;
    let name = job.members.iter().find(|(_, m)| late(m)).map(|(name, _)| name.clone())?;
    let how = format!("has not made itself ready within {:.0} s", config.register_timeout.as_secs_f64());
    gone(now, job, &name, &how)
}

/// Whether a member waits to be let in.
pub(super) fn ready(m: &Member) -> bool {
    m.joins && m.lives() && m.attached.is_some()
}

/// Whether those of a generation are to leave it at a boundary between two steps.
pub(super) fn wanted(job: &Job, generation: u64) -> bool {
    let runs = matches!(job.phase, Phase::Running { .. });
    runs && generation == job.generation && (job.members.values().any(ready) || !drain::going(job).is_empty())
}

/// One that was to join is gone: nothing depended on it, and nothing of it is kept. None where the job has ended, whose members
/// stay.
pub(super) fn gone(now: Now, job: &mut Job, name: &str, how: &str) -> Option<String> {
    if job.outcome().is_some() {
        return None;
    }
    let member = job.remove(name)?;
    let text = format!("{}, which was to join, {how}", member.describe());
    job.tell_forgotten(now, &member, &text);
    job.remember(member.place().to_string(), text.clone());
    Some(text)
}

/// A place with its rank, for people.
pub(super) fn place(p: &Placement) -> String {
    format!("host {} local {} as rank {}", p.host, p.local_index, p.rank)
}

impl Job {
    /// The last generation that was formed, or the number of the first before that.
    pub(super) fn last_formed(&self) -> u64 {
        match self.phase {
            Phase::Reforming { .. } => self.generation - 1,
            _ => self.generation,
        }
    }
}
