//! One generation after another, in a job that goes on without some of its workers.

use super::{
    Answer, Applied, Job, Phase, Reply, StoreUse, Wait, drain, failure, hang, join, register, replay,
};
use crate::chronicle::Found;
use crate::config::CoordinatorConfig;
use crate::liveness::Lost;
use crate::membership::{Member, NAMED, Now};
use crate::plan;
use crate::ranks::{self, Place};
use crate::refusal::Refusal;
use crate::text::{MAX_REASON, line};
use octrain_proto::v1::{Abort, AbortKind, ExitedRequest, Generation, Header, Regroup, Standing};

/// Generations in a row in which no step was finished; then what breaks them is not a worker.
const IN_VAIN: u32 = 5;

/// A worker whose generation is over, as its message says why, comes to the next one, and waits for it. The first to come
/// ends the generation for all.
pub(super) fn attach(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    header: &Header,
    standing: Option<Standing>,
    (message, wait): (&str, Wait),
) -> Applied {
    let stale = job.stale(header.generation, config);
    let current = job.generation;
    let failed = match &job.phase {
        Phase::Failed { abort, .. } => Some(abort.clone()),
        _ => None,
    };
    if job.member(header, config)?.joins {
        return join::attach(now, job, header, wait);
    }
    let member = job.member(header, config)?;
    if member.drained {
        member.told = true;
        return Ok((Answer::Reply(Reply::Drained), None));
    }
    if let Some(abort) = failed.as_ref().or(member.dropped.as_ref()) {
        member.told |= member.dropped.is_some();
        return Err(Refusal::Ended(abort.clone()));
    }
    if wait == Wait::First {
        member.heard(now);
    }
    // A call of this worker's that it has had its answer to, and has gone on from: what it said there is old, and it has not come.
    if header.generation < member.spoken {
        return Err(stale);
    }
    member.spoke(header.generation);
    let (rank, is_in, described) = (member.rank, member.generation == current, member.describe());
    let mut reasons = Vec::new();
    match &job.phase {
        Phase::Gathering => return Err(Refusal::NotRunning),
        Phase::Finished { .. } => return Err(Refusal::Finished),
        Phase::Failed { abort, .. } => return Err(Refusal::Ended(abort.clone())),
        // It has come, and its answer was lost or is due.
        Phase::Running { formed, .. } if is_in && header.generation < current => {
            return Ok((Answer::Reply(attached(formed, rank)), None));
        }
        Phase::Running { .. } if header.generation < current => return Err(stale),
        Phase::Running { .. } if !job.survives => {
            let text = "this job ends with any of its workers: there is no generation to come to";
            return Err(Refusal::Invalid(text.into()));
        }
        // Too few are left without one that has failed: its root cause is awaited, and then the job ends.
        Phase::Running { suspicion: Some(s), .. } => {
            return Ok(match wait {
                Wait::Expired => {
                    let text = format!("the root cause of this: {}", s.message);
                    (Answer::Reply(Reply::Attached(None, text)), None)
                }
                _ => (Answer::Park, None),
            });
        }
        Phase::Running { .. } => {
            // A step that it has finished, and has not reported yet, is one of the generation that is over.
            standing.iter().for_each(|s| job.progressed(header.generation, s.step));
            reasons.push(end(now, job, &format!("{described}: {message}")));
        }
        Phase::Reforming { .. } => {}
    }
    if let Some(member) = job.members.get_mut(&header.member) {
        member.attached = Some(standing);
    }
    if let Some(standing) = standing {
        job.has_state(&header.member);
        job.progressed(header.generation, standing.step);
    }
    reasons.extend(form(now, job));
    let reason = (!reasons.is_empty()).then(|| reasons.join("; "));
    // It may have been left out just now.
    if let Some(member) = job.members.get_mut(&header.member).filter(|m| m.drained) {
        member.told = true;
        return Ok((Answer::Reply(Reply::Drained), reason));
    }
    if let Some(member) = job.members.get_mut(&header.member)
        && let Some(abort) = member.dropped.clone()
    {
        member.told = true;
        return Ok((Answer::Refuse(Refusal::Ended(abort)), reason));
    }
    let answer = match &job.phase {
        Phase::Running { formed, .. } => {
            let rank = job.members.get(&header.member).and_then(|m| m.rank);
            Answer::Reply(attached(formed, rank))
        }
        Phase::Failed { abort, .. } => Answer::Refuse(Refusal::Ended(abort.clone())),
        _ if wait == Wait::Expired => Answer::Reply(Reply::Attached(None, awaited(job))),
        _ => Answer::Park,
    };
    Ok((answer, reason))
}

/// A worker that waits for its plan, while a generation is being formed, has come to it: it has not begun. One that has spoken as
/// one who has its plan asked earlier, and its call comes late.
pub(super) fn come_without_plan(now: Now, job: &mut Job, name: &str) -> Option<String> {
    if !matches!(job.phase, Phase::Reforming { .. }) {
        return None;
    }
    job.members.get_mut(name).filter(|m| m.spoken == 0)?.attached.get_or_insert(None);
    form(now, job)
}

pub(super) fn attached(formed: &Generation, rank: Option<u32>) -> Reply {
    let rank = rank.unwrap_or_default();
    Reply::Attached(Some(Generation { rank, ..formed.clone() }), String::new())
}

/// Those that have yet to come, for people.
pub(super) fn awaited(job: &Job) -> String {
    named(job, |m| m.attached.is_none())
}

/// Those whom the job depends on and of whom something holds, for people.
pub(super) fn named(job: &Job, holds: impl Fn(&Member) -> bool) -> String {
    let mut all: Vec<String> =
        job.members.values().filter(|m| m.counted() && holds(m)).map(Member::describe).collect();
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", all.join(", "))
}

/// Ends the generation, unless that is done.
pub(super) fn end(now: Now, job: &mut Job, why: &str) -> String {
    if matches!(job.phase, Phase::Reforming { .. }) {
        return why.into();
    }
    let why = line(why, MAX_REASON);
    let text = format!("generation {} is over: {why}", job.generation);
    job.tell_over(now, &why);
    job.generation += 1;
    job.store = Default::default();
    job.store_use = StoreUse::None;
    for m in job.members.values_mut().filter(|m| !m.joins) {
        m.attached = None;
        m.connected = false;
    }
    job.history.begun(job.generation, now, &why);
    job.phase = Phase::Reforming { since: now, why };
    text
}

/// Whether fewer than the minimum are left. Those who have left were done; those who join are in no generation.
fn too_few(job: &Job, min_world: u32) -> bool {
    job.members.values().filter(|m| !m.failed && !m.drained && !m.joins).count() < min_world as usize
}

/// The job goes on without a worker; none where it does not, and nothing was changed but that the worker is gone. Whether those who
/// are left have its state they say when they come to the next generation.
pub(super) fn go_on_without(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    name: &str,
    (found, why): (Found, &str),
) -> Option<String> {
    let runs = matches!(job.phase, Phase::Running { .. } | Phase::Reforming { .. });
    if !runs || !job.survives {
        return None;
    }
    job.members.get_mut(name)?.failed = true;
    if too_few(job, config.min_world) {
        return None;
    }
    let message = line(&format!("the job goes on without this worker: {why}"), MAX_REASON);
    let member = job.members.get_mut(name)?;
    let abort = Abort { kind: AbortKind::Dropped.into(), message, culprit: member.rank, saver: None };
    job.kept.push(replay::gone(name, Some(&abort)));
    member.dropped = Some(abort);
    job.tell_lost(now, name, found, why);
    if job.members.values().all(|m| !m.counted()) {
        job.phase = Phase::Finished { at: now, interrupted: job.interrupted };
        return Some(format!("{why}; all others have left, the job is finished"));
    }
    job.bereft = true;
    let ended = end(now, job, why);
    let formed = form(now, job);
    Some([Some(ended), formed].into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// Forms the next generation, once all who are left have come.
pub(super) fn form(now: Now, job: &mut Job) -> Option<String> {
    let Phase::Reforming { since, why } = &job.phase else { return None };
    let (took, why) = (now.saturating_sub(*since), why.clone());
    if let Some(reason) = without_those_in_vain(now, job) {
        if job.plan.as_deref().is_some_and(|plan| too_few(job, plan.min_world)) {
            return failure::fail(now, job, AbortKind::WorkerFailed, None, reason);
        }
        let then = form(now, job);
        return Some([Some(reason), then].into_iter().flatten().collect::<Vec<_>>().join("; "));
    }
    if job.members.values().any(|m| m.counted() && m.attached.is_none()) {
        return None;
    }
    let drained = drain::depart(job);
    let mut here: Vec<(Place, Came)> = Vec::new();
    for m in job.members.values().filter(|m| m.counted()) {
        let standing = m.attached?;
        // One that came late and has yet to take on the others' state was stopped on its way to that.
        let late = m.untried && standing.is_none();
        here.push((m.place(), if late { Came::Late } else { Came::From(standing) }));
    }
    if here.is_empty() {
        return None;
    }
    // Who is ready comes along, and who is not is not waited for.
    let ready = job.members.values().filter(|m| join::ready(m));
    here.extend(ready.map(|m| (m.place(), Came::Late)));
    if job.progress.1 >= IN_VAIN {
        let text = format!(
            "{IN_VAIN} generations in a row have ended before a step was finished, the last one so: {why}"
        );
        return failure::fail(now, job, AbortKind::WorkerFailed, None, text);
    }
    let places: Vec<Place> = here.iter().map(|(place, _)| place.clone()).collect();
    let mut roster = ranks::assign(&places);
    let came: Vec<Came> = roster
        .iter()
        .map(|p| {
            let place = Place { host: p.host.clone(), local_index: p.local_index };
            here.iter().find(|(other, _)| *other == place).map_or(Came::Late, |(_, came)| *came)
        })
        .collect();
    let source = source(&came);
    if came.iter().all(|c| *c == Came::Late) {
        let text = format!(
            "none of those who are left has the job's state, the last one that had it is gone: {why}"
        );
        return failure::fail(now, job, AbortKind::WorkerLost, None, text);
    }
    for m in job.members.values_mut().filter(|m| m.counted() || join::ready(m)) {
        m.joins = false;
        let place = m.place();
        let Some(p) = roster.iter_mut().find(|p| p.host == place.host && p.local_index == place.local_index)
        else {
            continue;
        };
        if let Some(gpu) = &m.gpu {
            (p.cuda_device, p.cuda_uuid) = (Some(gpu.ordinal), gpu.uuid.clone());
        }
        // What it has said since the last one was over was of that.
        (m.rank, m.generation, m.connected) = (Some(p.rank), job.generation, false);
    }
    let plan = job.plan.as_deref()?;
    let joined: Vec<u32> =
        roster.iter().zip(&came).filter(|(_, c)| **c == Came::Late).map(|(p, _)| p.rank).collect();
    let mut from = match source.map(|s| (s, came[s as usize])) {
        Some((rank, Came::From(Some(Standing { step, .. })))) => {
            format!("all go on after step {step}, as rank {rank} has it")
        }
        _ => "all begin, as none had finished a step".into(),
    };
    if !joined.is_empty() {
        let names: Vec<String> =
            joined.iter().take(NAMED).map(|r| join::place(&roster[*r as usize])).collect();
        from.push_str(&format!("; with {} more: {}", joined.len(), names.join(", ")));
    }
    if !drained.is_empty() {
        from.push_str(&format!("; without {}, as was asked for", drained.join(", ")));
    }
    let step = match source.map(|s| came[s as usize]) {
        Some(Came::From(Some(standing))) => standing.step,
        _ => 0,
    };
    job.history.formed(now, places.len(), step);
    job.news.formed(now, step);
    let formed = Generation { joined, ..plan::generation(plan, job.generation, roster, source) };
    let text = format!(
        "generation {} is formed {:.2} s later, {} workers: {from}",
        job.generation,
        took.as_secs_f64(),
        places.len()
    );
    job.phase = Phase::Running { formed: Box::new(formed), since: now, suspicion: None };
    hang::formed(now, job);
    (job.progress.1, job.bereft) = (job.progress.1 + 1, false);
    Some(text)
}

/// Once all have come, those that were let in often enough and never took on the state are left out: it is they who break
/// generations, and those do not count as in vain. None where there are none, or nobody else.
fn without_those_in_vain(now: Now, job: &mut Job) -> Option<String> {
    let counted = || job.members.values().filter(|m| m.counted());
    if counted().any(|m| m.attached.is_none()) || counted().all(|m| m.untried) {
        return None;
    }
    // What ends with another worker says nothing of one that was let in to it.
    if !std::mem::replace(&mut job.bereft, true) {
        let last = job.generation - 1;
        let was_in = job.members.values_mut().filter(|m| m.counted() && m.untried && m.generation == last);
        was_in.for_each(|m| m.tries += 1);
    }
    let spent = |m: &Member| m.counted() && m.untried && m.tries >= join::TRIES;
    let name = job.members.iter().find(|(_, m)| spent(m)).map(|(name, _)| name.clone())?;
    let member = job.members.get_mut(&name)?;
    let text = format!(
        "{} was let in {} times, and no step was done with it: look at the address that the others reach it at",
        member.describe(),
        member.tries
    );
    let message = line(&format!("the job goes on without this worker: {text}"), MAX_REASON);
    member.failed = true;
    let abort = Abort { kind: AbortKind::Dropped.into(), message, culprit: member.rank, saver: None };
    job.kept.push(replay::gone(&name, Some(&abort)));
    member.dropped = Some(abort);
    job.progress.1 = job.progress.1.saturating_sub(member.tries);
    let place = member.place().to_string();
    job.tell_lost(now, &name, Found::InVain, &text);
    job.remember(place, text.clone());
    Some(text)
}

/// What a worker has come to a generation with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Came {
    /// From the generation before: where it stands; none: it has not begun.
    From(Option<Standing>),
    /// It came to the running job, and has no state yet.
    Late,
}

/// The rank whose state all others take on: the one that is furthest, of several the first. None where some have not
/// begun: nobody has finished a step then, and all begin anew. Who comes late has no state, and is no reason to begin anew.
fn source(came: &[Came]) -> Option<u32> {
    let mut all = Vec::new();
    for (rank, came) in came.iter().enumerate() {
        match came {
            Came::From(standing) => all.push((rank, (*standing)?)),
            Came::Late => {}
        }
    }
    let furthest = |(rank, s): &(usize, Standing)| (s.step, s.stage, std::cmp::Reverse(*rank));
    all.into_iter().max_by_key(furthest).map(|(rank, _)| rank as u32)
}

/// Time has passed: those who have not come in time are given up.
pub(super) fn overdue(now: Now, job: &mut Job, config: &CoordinatorConfig) -> Option<String> {
    let Phase::Reforming { since, .. } = &job.phase else { return None };
    if now < *since + config.regroup_timeout {
        return None;
    }
    let late = job.members.iter().find(|(_, m)| m.counted() && m.attached.is_none());
    let member = late.map(|(name, _)| name.clone())?;
    let cause = format!(
        "it lives, but has not come to generation {} within {:.0} s (a GPU, a file system or a loader that hangs)",
        job.generation,
        config.regroup_timeout.as_secs_f64()
    );
    failure::lose(now, job, config, &Lost { member, cause, found: Found::NotAttached }, None)
}

/// A launcher has seen a worker's end.
pub(super) fn exited(now: Now, job: &mut Job, config: &CoordinatorConfig, r: &ExitedRequest) -> Applied {
    register::meant(config, &r.job_id, r.generation, config.generation)?;
    // A job that ends with any of its workers has its own ways to know of their end, which no word from outside replaces; but not
    // where an earlier coordinator knew the worker, and this one has yet to.
    if !job.survives && now >= job.unheard {
        return Ok((Answer::Reply(Reply::GoesOn(false)), None));
    }
    let place = Place { host: r.host.clone(), local_index: r.local_index };
    let theirs = |m: &Member| m.place() == place && m.facts.pid == r.pid && m.token.is(&r.token);
    // One that has finished did so without it.
    let well = |job: &Job| job.survives && !matches!(job.phase, Phase::Gathering | Phase::Failed { .. });
    // A stranger, or the launcher of a process that never was a worker of this job, or has not come so far; that one may have been
    // recalled, and have found no room.
    let Some((name, member)) = job.members.iter_mut().find(|(_, m)| theirs(m)) else {
        let vacant = drain::vacant(now, job, config, (&place, None));
        let reply = vacant.map_or(Reply::GoesOn(well(job)), |recalled| Reply::Vacant { recalled });
        return Ok((Answer::Reply(reply), None));
    };
    let cause = format!("its launcher saw that it {}", r.status);
    let lost = member.lives().then(|| Lost { member: name.clone(), cause, found: Found::Exited });
    let name = name.clone();
    // One that was asked to stop and has left, as all have.
    let stops = member.left && job.interrupted;
    let vacant = drain::vacant(now, job, config, (&place, Some(&name)));
    let reason = match (&job.phase, lost) {
        (Phase::Gathering, Some(lost)) => failure::forget(now, job, &lost),
        (Phase::Running { .. } | Phase::Reforming { .. }, Some(lost)) => {
            failure::lose(now, job, config, &lost, None)
        }
        _ => None,
    };
    // It will not ask any more.
    if let Some(member) = job.members.get_mut(&name) {
        member.told = true;
    }
    let reply = match vacant {
        Some(recalled) => Reply::Vacant { recalled },
        None => Reply::GoesOn(well(job) && !stops),
    };
    Ok((Answer::Reply(reply), reason))
}

impl Job {
    /// What a worker of this generation is told, where that is over.
    pub(super) fn told_after(&self, generation: u64) -> Option<Regroup> {
        match &self.phase {
            Phase::Reforming { why, .. } if generation < self.generation => {
                Some(Regroup { generation: self.generation, why: why.clone() })
            }
            Phase::Running { .. } if generation < self.generation => {
                Some(Regroup { generation: self.generation, why: "it was formed anew".into() })
            }
            _ => None,
        }
    }

    /// A member has finished so many steps, as it says in a generation.
    pub(super) fn progressed(&mut self, generation: u64, step: u64) {
        // A step that only one which is gone had finished is done again.
        if generation == self.generation && matches!(self.phase, Phase::Running { .. }) {
            self.history.reached(step);
            hang::stepped(self, step);
            self.news.reached(step);
        }
        if step <= self.progress.0 {
            return;
        }
        self.progress = (step, 0);
        // Nobody finishes a step alone: all of the generation have begun in it, whatever they have said since. What they had asked
        // before, and comes later or has come, has been answered.
        let silent = |m: &Member| m.generation == generation && m.spoken < generation;
        for m in self.members.values_mut().filter(|m| silent(m)) {
            (m.spoken, m.attached) = (generation, None);
        }
        // Whoever has come to a generation has said before how far it was, and nobody finishes a step alone: all are connected.
        if generation == self.generation && matches!(self.phase, Phase::Running { .. }) {
            self.members.values_mut().filter(|m| m.generation == generation).for_each(|m| m.connected = true);
        }
    }
}
