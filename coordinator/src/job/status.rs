//! What the job is doing, for people and probes.

use super::{Job, Phase, drain, regroup};
use crate::config::CoordinatorConfig;
use crate::membership::{Member, Now, missing};
use octrain_proto::PROTOCOL_VERSION;
use octrain_proto::v1::{JobPhase, MemberStatus, Notice, StatusReply};
use std::ops::Bound;

/// The status; members in the order of ranks, then of registration.
pub(super) fn status(now: Now, job: &Job, config: &CoordinatorConfig) -> StatusReply {
    let (phase, message) = match &job.phase {
        Phase::Gathering => (JobPhase::Gathering, missing(config, &job.members).unwrap_or_default()),
        Phase::Reforming { why, .. } => {
            (JobPhase::Reforming, format!("waiting for {}, since: {why}", regroup::awaited(job)))
        }
        Phase::Running { suspicion: Some(s), .. } => {
            (running(job), format!("waiting for the cause of: {}", s.message))
        }
        Phase::Running { suspicion: None, .. } => {
            let unconnected = regroup::named(job, |m| !m.connected);
            let text = match unconnected.is_empty() {
                true => String::new(),
                false => format!("waiting until these are connected to the others: {unconnected}"),
            };
            (running(job), text)
        }
        Phase::Finished { interrupted: false, .. } => (JobPhase::Finished, "all workers have left".into()),
        Phase::Finished { interrupted: true, .. } => {
            (JobPhase::Finished, "all workers have left, interrupted".into())
        }
        Phase::Failed { abort, .. } => {
            let echoes = job.echoes.iter().map(|e| format!("\n  later: {e}")).collect::<String>();
            (JobPhase::Failed, format!("{}{echoes}", abort.message))
        }
    };
    let going = drain::going(job);
    let mut members: Vec<MemberStatus> = job
        .members
        .iter()
        .map(|(name, m)| MemberStatus {
            host: m.facts.host.clone(),
            local_index: m.facts.local_index,
            pid: m.facts.pid,
            rank: m.rank,
            step: m.step,
            silent_ms: now.saturating_sub(m.last_seen).as_millis() as u64,
            left: m.left,
            gone: m.failed,
            joins: m.joins && !m.drained,
            drains: going.contains(name),
            drained: m.drained,
            report: m.report,
            at: Some(m.at),
            collectives: m.collectives,
            own_seconds: m.speed.own_seconds().unwrap_or_default(),
            slow: m.speed.is_slow(),
        })
        .collect();
    members.sort_by_key(|m| m.rank.unwrap_or(u32::MAX));
    StatusReply {
        protocol_version: PROTOCOL_VERSION,
        job_id: config.job_id.clone(),
        generation: job.generation,
        phase: phase.into(),
        expected_workers: config.world_size,
        members,
        message,
        plan: job.plan.as_deref().cloned(),
        refusals: job.refusals.iter().map(|(_, text)| text.clone()).collect(),
        generations: job.history.told(now),
        notices: job.notices(now),
        coordinator_timeout_ms: config.absence().map_or(0, |absence| absence.as_millis() as u64),
        term: job.term,
        // Those who come to a running job are let in up to more than it begins with.
        wanted_workers: match job.phase {
            Phase::Gathering => config.world_size,
            _ => job.room() as u32,
        },
        min_workers: if job.survives { config.min_world } else { config.world_size },
    }
}

fn running(job: &Job) -> JobPhase {
    match job.is_connected() {
        true => JobPhase::Running,
        false => JobPhase::Forming,
    }
}

impl Job {
    /// What was noticed of its workers and ended nothing, oldest first; as many as are remembered.
    pub fn notices(&self, now: Now) -> Vec<Notice> {
        self.history.notices(now)
    }

    /// Steps that have been finished, counted from the beginning of the run.
    pub fn steps(&self) -> u64 {
        self.progress.0
    }

    /// The generation that runs, and its workers, if one does.
    pub fn runs(&self) -> Option<(u64, u32)> {
        match &self.phase {
            Phase::Running { formed, .. } => Some((formed.number, formed.roster.len() as u32)),
            _ => None,
        }
    }

    /// Whether the workers of the generation have found each other, as they say. One that failed before has not.
    pub(super) fn is_connected(&self) -> bool {
        self.unconnected_from("").is_none()
    }

    /// The first of them by name, from this name on, who has not.
    pub(super) fn unconnected_from(&self, name: &str) -> Option<&String> {
        let from = (Bound::Included(name), Bound::Unbounded);
        let of_it = |m: &Member| m.generation == self.generation && !m.joins;
        let mut members = self.members.range::<str, _>(from).filter(|(_, m)| of_it(m));
        members.find(|(_, m)| !m.connected && !m.left).map(|(name, _)| name)
    }
}
