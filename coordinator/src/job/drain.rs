//! Workers that leave a job which goes on: one that was asked to stop, alone, and those beyond the number that is wanted (a resize).
//!
//! ```text
//! Heartbeat (leaving)   it is noted; what becomes of it is said with every heartbeat, as it may change
//! Resize                the number is noted; who is beyond it follows from the ranks
//! (heartbeats)          those who run are told that a boundary is wanted, and attach behind a step, all of them
//! form                  the next generation is formed of the others; who leaves is answered so
//! ```
//! Nothing fails, and no step is done again: all stand after the same one. Where a generation has ended otherwise meanwhile, one that
//! is further than all others is in the next one, too, as its state is needed, and leaves behind that. Nobody leaves where fewer
//! than the minimum would be left: one that was asked to stop hears that all are to.

use super::{Answer, Applied, Job, Phase, Reply, join};
use crate::chronicle::{Happening, Who};
use crate::config::CoordinatorConfig;
use crate::journal::Record;
use crate::journal::record::Drained;
use crate::membership::{Member, Now};
use crate::ranks::Place;
use crate::refusal::Refusal;
use crate::resize::ResizeRefusal;
use octrain_proto::v1::Departure;
use std::cmp::Reverse;
use std::collections::HashSet;

/// Those who leave at the next boundary: who was asked to, and of those beyond the number that is wanted the highest ranks. Nobody
/// where the minimum does not spare all of the former: then all stop.
pub(super) fn going(job: &Job) -> Vec<String> {
    let Some(plan) = job.plan.as_deref().filter(|_| job.survives) else { return Vec::new() };
    // Asked with every heartbeat, of jobs that mostly have nobody who leaves.
    if job.wanted.is_none() && !job.members.values().any(|m| m.leaving) {
        return Vec::new();
    }
    let mut here: Vec<(&String, &Member)> = job.members.iter().filter(|(_, m)| m.counted()).collect();
    here.sort_by_key(|(_, m)| (!m.leaving, Reverse(m.rank)));
    let asked = here.iter().filter(|(_, m)| m.leaving).count();
    let wanted = job.room();
    let beyond = (here.len() - asked).saturating_sub(wanted);
    let spared = here.len().saturating_sub(plan.min_world as usize);
    if asked > spared {
        return Vec::new();
    }
    here.iter().take((asked + beyond).min(spared)).map(|(name, _)| (*name).clone()).collect()
}

/// A worker says whether it was asked to stop, alone; what becomes of it, and what is to be said.
pub(super) fn asked(now: Now, job: &mut Job, name: &str, leaving: bool) -> (Departure, Option<String>) {
    let runs = matches!(job.phase, Phase::Running { .. } | Phase::Reforming { .. });
    let Some(member) = job.members.get_mut(name).filter(|m| leaving && m.counted()) else {
        return (Departure::None, None);
    };
    let said = std::mem::replace(&mut member.leaving, true);
    let (described, worker) = (member.describe(), Who::from(&*member));
    let goes = runs && going(job).iter().any(|other| other == name);
    let (departure, what) = match goes {
        true => (Departure::Boundary, "leaves at the next boundary between two steps"),
        false => (Departure::All, "the job does not go on without it, so all stop"),
    };
    if said {
        return (departure, None);
    }
    job.tell(now, Happening::WorkerDraining { worker, all_stop: !goes });
    (departure, Some(format!("{described} is asked to stop: {what}")))
}

/// How far a worker is that has come to the next generation; none: it has no state.
fn standing(m: &Member) -> Option<(u64, u32)> {
    match m.attached.flatten() {
        None if m.untried => None,
        standing => Some(standing.map_or((0, 0), |s| (s.step, s.stage))),
    }
}

/// All have come to the next generation: it is formed without those who are to leave, but for one whose state the others need.
/// Says who has left.
pub(super) fn depart(job: &mut Job) -> Vec<String> {
    let mut told = Vec::new();
    for name in going(job) {
        let others = job.members.iter().filter(|(other, m)| m.counted() && **other != name);
        let furthest = others.map(|(_, m)| standing(m)).max().flatten();
        let Some(member) = job.members.get_mut(&name).filter(|m| standing(m) <= furthest) else { continue };
        member.drained = true;
        told.push(member.describe());
        let asked = member.leaving;
        job.kept.push(Record::Drained(Drained { member: name, asked }));
    }
    told
}

/// The job is to have so many workers from now on. Those beyond it leave at the next boundary, the highest ranks first; who comes while there
/// is room is let in.
pub(super) fn resize(job: &mut Job, config: &CoordinatorConfig, wanted: u32) -> Applied {
    let refuse = |why| Err(Refusal::Resize(why));
    let (min, max) = (config.min_world, config.max_world);
    match &job.phase {
        Phase::Gathering => return refuse(ResizeRefusal::NotStarted { world: config.world_size }),
        Phase::Finished { .. } => return Err(Refusal::Finished),
        Phase::Failed { abort, .. } => return Err(Refusal::Ended(abort.clone())),
        Phase::Running { .. } | Phase::Reforming { .. } => {}
    }
    if !job.survives {
        return refuse(ResizeRefusal::NoMinimum { world: config.world_size, held: job.held });
    }
    if wanted < min {
        return refuse(ResizeRefusal::TooFew { wanted, min, max });
    }
    if wanted > max {
        return refuse(ResizeRefusal::TooMany { wanted, min, max });
    }
    if job.members.values().any(|m| m.left) {
        return refuse(ResizeRefusal::Ending);
    }
    if job.wanted != Some(wanted) {
        job.wanted = Some(wanted);
        job.kept.push(Record::Resized(wanted));
    }
    turn_away(job, wanted as usize);
    let names = going(job);
    let leave: Vec<String> = names.iter().filter_map(|n| Some(job.members.get(n)?.describe())).collect();
    let here = job.members.values().filter(|m| m.lives()).count();
    let what = match (leave.is_empty(), (wanted as usize).saturating_sub(here)) {
        (false, _) => format!("these leave at the next boundary between two steps: {}", leave.join(", ")),
        (true, 0) => format!("it has {here}, and goes on as it is"),
        (true, room) => format!("it has {here}; {room} more are let in once they come"),
    };
    let text = format!("the job is to have {wanted} workers: {what}");
    Ok((Answer::Reply(Reply::Resized(text.clone())), Some(text)))
}

/// Those that are about to come and for whom there is no room any more: the last ones first.
fn turn_away(job: &mut Job, wanted: usize) {
    // Those who were asked to stop make room themselves.
    let lives = job.members.values().filter(|m| m.lives() && !m.leaving).count();
    let mut coming: Vec<(Now, String)> = job
        .members
        .iter()
        .filter(|(_, m)| m.lives() && !m.leaving && m.joins)
        .map(|(name, m)| (m.since, name.clone()))
        .collect();
    coming.sort();
    for (_, name) in coming.into_iter().rev().take(lives.saturating_sub(wanted)) {
        if let Some(member) = job.members.get_mut(&name) {
            member.drained = true;
            job.kept.push(Record::Drained(Drained { member: name, asked: false }));
        }
    }
}

/// The launcher at a place tells that the process there (`name`: that member; none: it had not registered) has ended: whether another one
/// is wanted there now, where one had left for want of room and none has come since, in a job that goes on. One that is recalled has its
/// room reserved until it has come, or had the time that there is to register: so many are as there is room for, and no more.
pub(super) fn vacant(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    (place, name): (&Place, Option<&str>),
) -> Option<bool> {
    let taken = |place: &Place| job.members.values().any(|other| other.lives() && other.place() == *place);
    let left = |m: &&Member| m.drained && !m.leaving;
    let of = match name {
        Some(name) => job.members.get_key_value(name).filter(|(_, m)| left(m)),
        None => job.members.iter().find(|(_, m)| left(m) && m.place() == *place),
    };
    let name = of.filter(|_| join::possible(job) && !taken(place)).map(|(name, _)| name.clone())?;
    let lives = job.members.values().filter(|m| m.lives()).count();
    let reserves = |m: &Member| m.recalled.is_some_and(|at| now < at + config.register_timeout);
    let others = job.members.values().filter(|m| reserves(m)).map(Member::place);
    let others: HashSet<Place> = others.filter(|other| other != place && !taken(other)).collect();
    let recalled = lives + others.len() < job.room();
    let member = job.members.get_mut(&name)?;
    // It is there, and asks: however long it waits, it is not forgotten.
    member.heard(now);
    member.recalled = recalled.then_some(now);
    Some(recalled)
}

impl Job {
    /// Workers that it has room for.
    pub(super) fn room(&self) -> usize {
        self.wanted.unwrap_or(self.most) as usize
    }
}
