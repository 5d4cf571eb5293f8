//! Heartbeats: what a worker says of itself, and what it hears.

use super::{Answer, Applied, Beat, Heard, Job, Phase, Reply, drain, hang, join};
use crate::config::CoordinatorConfig;
use crate::membership::Now;
use octrain_proto::v1::Header;

/// A worker lives.
pub(super) fn heard(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    header: &Header,
    beat: Beat,
) -> Applied {
    let Beat { step, collectives, connected, leaving, at } = beat;
    let regroup = match job.members.get(&header.member) {
        // It is in none that could be over.
        Some(m) if m.joins => None,
        _ => job.told_after(header.generation),
    };
    let ended = match &job.phase {
        Phase::Failed { abort, .. } => Some(abort.clone()),
        _ => None,
    };
    let member = job.member(header, config)?;
    member.heard(now);
    // What has become of the job since it has left is nothing to it.
    if member.drained {
        return Ok((Answer::Reply(Reply::Heartbeat(Box::default())), None));
    }
    let (dropped, joins) = (member.dropped.clone(), member.joins);
    // Nor is one in the job that is only about to come.
    let counts = dropped.is_none() && !joins;
    if counts && header.generation == job.generation {
        hang::heard(now, job, &header.member, (step, collectives), at);
    }
    let member = job.member(header, config)?;
    member.step = member.step.max(step);
    // Before its plan, it beats without having met anybody.
    if connected || step > 0 || collectives > 0 {
        member.spoke(header.generation);
    }
    member.connected |= connected && header.generation == member.generation;
    let abort = ended.or(dropped);
    member.told |= abort.is_some();
    if counts && step > 0 {
        job.has_state(&header.member);
    }
    // What one that is given up has done is nobody's progress.
    if counts {
        job.progressed(header.generation, step);
    }
    let (departure, reason) = drain::asked(now, job, &header.member, leaving);
    let boundary_wanted = !joins && join::wanted(job, header.generation);
    let hang = hang::told(job, header.generation);
    let heard = Heard { abort, regroup, boundary_wanted, departure, hang };
    Ok((Answer::Reply(Reply::Heartbeat(Box::new(heard))), reason))
}
