//! Registration.

use super::{Answer, Applied, Job, Phase, Reply, failure, hang, join, replay};
use crate::config::CoordinatorConfig;
use crate::membership::{Member, Now};
use crate::plan::{self, Planned};
use crate::ranks::{self, Place};
use crate::refusal::Refusal;
use crate::spec;
use crate::strategy::{Gpu, JobFacts, JobSettings};
use crate::text::{MAX_REASON, line};
use octrain_core::strategy::Purpose;
use octrain_proto::PROTOCOL_VERSION;
use octrain_proto::v1::{
    AbortKind, BuildPlan, GiveUpRequest, JobSpec, Placement, RegisterReply, RegisterRequest, WorkerFacts,
};
use std::collections::HashMap;
use std::time::Duration;

/// After so long a silence one that is gone does not ask any more what has become of the job.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A worker registers. The last one starts the job; one that can never be a part of it ends the wait of the others.
pub(super) fn register(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    request: RegisterRequest,
) -> Applied {
    let place = request.worker.as_ref().map(crate::place_of);
    let meant = meant(config, &request.job_id, request.generation, config.generation).is_ok();
    let admitted = admit(now, job, config, request);
    if let (Err(refusal), Some(place)) = (&admitted, place) {
        job.remember(place.to_string(), format!("{place}: {refusal}"));
        if meant
            && refusal.ends_the_wait()
            && open(now, job, config, &place.host, Some(place.local_index)).is_ok()
        {
            cannot_be_run(now, job, &place.to_string(), &refusal.to_string());
        }
        if meant {
            knows(job, config, [place]);
        }
    }
    admitted
}

/// A launcher, or a worker that has not registered, cannot be run as configured: the others would wait in vain. This
/// takes no more than to register does: a job that has started, and one whose place at that host is taken, goes on.
pub(super) fn give_up(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    request: GiveUpRequest,
) -> Applied {
    let GiveUpRequest { job_id, generation, host, local_index, pid, message, workers } = request;
    meant(config, &job_id, generation, config.generation)?;
    if host.is_empty() {
        return Err(Refusal::Invalid("the request lacks the host's name".into()));
    }
    let who = match local_index {
        Some(local_index) => Place { host: host.clone(), local_index }.to_string(),
        None => format!("host {host}"),
    };
    let opened = open(now, job, config, &host, local_index);
    let reason = match &opened {
        Ok(()) => cannot_be_run(now, job, &format!("{who} (pid {pid})"), &message),
        Err(_) => None,
    };
    // A launcher speaks for all of its workers; at least one, where it could not say how many.
    let speaks_for = match local_index {
        Some(i) => i..i.saturating_add(1),
        None => 0..workers.clamp(1, config.world_size),
    };
    knows(job, config, speaks_for.map(|local_index| Place { host: host.clone(), local_index }));
    opened?;
    super::done(reason)
}

fn cannot_be_run(now: Now, job: &mut Job, who: &str, why: &str) -> Option<String> {
    let text = format!("the job cannot be run as configured; {who}: {why}");
    failure::fail(now, job, AbortKind::Configuration, None, text)
}

/// These, who are not registered, know that the job has ended, if it has.
fn knows(job: &mut Job, config: &CoordinatorConfig, places: impl IntoIterator<Item = Place>) {
    if job.outcome().is_some() && job.told.len() < config.world_size as usize {
        job.told.extend(places);
    }
}

/// Whether a caller means this job.
pub(super) fn meant(
    config: &CoordinatorConfig,
    job_id: &str,
    generation: u64,
    ours: u64,
) -> Result<(), Refusal> {
    if job_id != config.job_id {
        return Err(Refusal::Job { theirs: job_id.into(), ours: config.job_id.clone() });
    }
    if generation != 0 && generation != ours {
        let theirs = generation;
        return Err(Refusal::Stale { theirs, ours, job: config.job_id.clone() });
    }
    Ok(())
}

/// Whether the job waits for workers, and for this one (`None`: for any of this host).
fn open(
    now: Now,
    job: &Job,
    config: &CoordinatorConfig,
    host: &str,
    local_index: Option<u32>,
) -> Result<(), Refusal> {
    match &job.phase {
        Phase::Gathering => {}
        Phase::Running { .. } | Phase::Reforming { .. } => {
            return Err(Refusal::Full { job: config.job_id.clone(), world: config.world_size });
        }
        Phase::Finished { .. } => return Err(Refusal::Finished),
        Phase::Failed { abort, .. } => return Err(Refusal::Ended(abort.clone())),
    }
    let is = |its_host: &str, index: u32| local_index.is_none_or(|i| i == index) && its_host == host;
    if let Some(other) = job.members.values().find(|m| is(&m.facts.host, m.facts.local_index)) {
        return Err(Refusal::Duplicate {
            place: other.place(),
            pid: other.facts.pid,
            silent_ms: now.saturating_sub(other.last_seen).as_millis() as u64,
        });
    }
    if !config.expected.is_empty() && !config.expected.iter().any(|p| is(&p.host, p.local_index)) {
        let expected = config.expected.iter().map(Place::to_string).collect::<Vec<_>>().join(", ");
        let place = Place { host: host.into(), local_index: local_index.unwrap_or_default() };
        return Err(Refusal::Unexpected { place, expected });
    }
    Ok(())
}

fn admit(now: Now, job: &mut Job, config: &CoordinatorConfig, request: RegisterRequest) -> Applied {
    if request.protocol_version != PROTOCOL_VERSION {
        return Err(Refusal::Protocol { theirs: request.protocol_version, ours: PROTOCOL_VERSION });
    }
    meant(config, &request.job_id, request.generation, config.generation)?;
    let incomplete = |what: &str| Refusal::Invalid(format!("the registration lacks {what}"));
    let worker = request.worker.ok_or_else(|| incomplete("the worker's facts"))?;
    let spec = request.job.ok_or_else(|| incomplete("the job's specification"))?;
    if worker.host.is_empty() {
        return Err(incomplete("the worker's host name"));
    }
    if request.nonce.is_empty() {
        return Err(incomplete("a nonce"));
    }
    let place = crate::place_of(&worker);
    // The same process again: its first reply got lost.
    let again = |m: &Member| !m.left && m.nonce == request.nonce && m.place() == place;
    if let Some((name, member)) = job.members.iter_mut().find(|(_, m)| again(m)) {
        member.heard(now);
        let name = name.clone();
        return Ok((reply(job, config, name), None));
    }
    let joins = join::possible(job);
    match joins {
        true => join::vacant(now, job, config, &place)?,
        false => open(now, job, config, &place.host, Some(place.local_index))?,
    }
    fits(if joins { config.max_world } else { config.world_size }, &place, worker.local_world)?;
    agrees(job, &place, &spec)?;
    let gpu = if joins { join::gpu(job, &place, &worker)? } else { None };

    job.registered += 1;
    let name = format!("{:016x}-{:06}", job.incarnation, job.registered);
    let fresh = Member::new(now, request.nonce, request.token, worker, spec);
    let member = Member { gpu, joins, untried: joins, ..fresh };
    job.kept.push(replay::admitted(&name, &member));
    let pid = member.facts.pid;
    if joins {
        // Of those that had its place, nobody asks any more who knows of his end; nor does anybody who was gone long ago.
        let gone = |m: &Member| m.told && m.place() == place || now >= m.last_seen + FORGOTTEN;
        job.members.retain(|_, m| !(m.failed || m.drained) || !gone(m));
        job.members.insert(name.clone(), member);
        let text = format!("{place} (pid {pid}) has come to the running job, and makes itself ready");
        return Ok((reply(job, config, name), Some(text)));
    }
    job.members.insert(name.clone(), member);
    let mut reason =
        format!("{place} (pid {pid}) registered, {} of {}", job.members.len(), config.world_size);
    if job.members.len() == config.world_size as usize {
        reason = format!("{reason}; {}", start(now, job, config));
    }
    Ok((reply(job, config, name), Some(reason)))
}

fn reply(job: &Job, config: &CoordinatorConfig, member: String) -> Answer {
    Answer::Reply(Reply::Registered(RegisterReply {
        job_id: config.job_id.clone(),
        generation: job.last_formed(),
        member,
        heartbeat_interval_ms: config.heartbeat_interval.as_millis() as u64,
        heartbeat_timeout_ms: config.heartbeat_timeout.as_millis() as u64,
        expected_workers: config.world_size,
        coordinator_timeout_ms: config.absence().map_or(0, |absence| absence.as_millis() as u64),
    }))
}

/// Whether a host has no more workers than the job.
fn fits(most: u32, place: &Place, local_world: u32) -> Result<(), Refusal> {
    if local_world > most {
        return Err(Refusal::Configuration(format!(
            "{place} is one of {local_world} workers of its host, but the whole job has {most}: check --world-size and --nproc-per-node"
        )));
    }
    Ok(())
}

/// Whether a worker is told to do what the others are.
fn agrees(job: &Job, place: &Place, spec: &JobSpec) -> Result<(), Refusal> {
    spec::check(spec).map_err(|e| Refusal::Invalid(format!("{place}: {e}")))?;
    JobSettings::parse(&spec.config_json)
        .map_err(|e| Refusal::Configuration(line(&e.to_string(), MAX_REASON)))?;
    if spec.purpose() == Purpose::Train && spec.train_images == 0 {
        return Err(Refusal::Configuration(format!("{place} has no training images: check --image-root")));
    }
    if let Some(first) = job.members.values().next() {
        let differences = spec::differences(spec, &first.spec);
        if !differences.is_empty() {
            return Err(Refusal::Mismatch { place: place.clone(), other: first.place(), differences });
        }
    }
    Ok(())
}

/// What is timed is so on all workers: such a plan keeps its job from going on without some of them.
pub(super) fn hold(job: &mut Job, plan: &BuildPlan) {
    if job.survives && plan.min_world >= plan.world_size {
        job.survives = false;
        job.held = Some("a benchmark ends with any of its workers, whatever --min-world says: start it anew");
    }
}

/// Everyone is here: decide, and start or fail.
fn start(now: Now, job: &mut Job, config: &CoordinatorConfig) -> String {
    let workers: Vec<WorkerFacts> = job.members.values().map(|m| m.facts.clone()).collect();
    // Rank 0's: in what it sees to go on with, workers may differ.
    let first = |a: &&Member, b: &&Member| {
        ranks::natural(&a.facts.host, &b.facts.host).then(a.facts.local_index.cmp(&b.facts.local_index))
    };
    let spec = job.members.values().min_by(first).map(|m| m.spec.clone()).unwrap_or_default();
    let trains = spec.purpose() == Purpose::Train;
    let facts = JobFacts { job: spec, workers, min_world: config.min_world };
    match plan::build(&config.job_id, &facts) {
        // Each worker has at least one of a step's microbatches, whose number is made once.
        Ok(Planned { plan, .. })
            if trains
                && plan.min_world < plan.world_size
                && u64::from(config.max_world) > plan.microbatches.max(plan.world_size.into()) =>
        {
            let (most, pieces) = (config.max_world, plan.microbatches);
            let text = format!(
                "the job cannot be run as configured: --max-world is {most}, but a step has {pieces} microbatches, and each worker takes one at least: give at most {pieces}, or a larger --global-batch-size"
            );
            failure::fail(now, job, AbortKind::Configuration, None, text).unwrap_or_default()
        }
        Ok(Planned { plan, roster }) => {
            let by_place: HashMap<(&str, u32), &Placement> =
                roster.iter().map(|p| ((p.host.as_str(), p.local_index), p)).collect();
            for m in job.members.values_mut() {
                let mine = by_place.get(&(m.facts.host.as_str(), m.facts.local_index));
                m.rank = mine.map(|p| p.rank);
                let gpu = |p: &&Placement| Some(Gpu { ordinal: p.cuda_device?, uuid: p.cuda_uuid.clone() });
                m.gpu = mine.and_then(gpu);
                m.generation = job.generation;
            }
            let reason = format!("all here: {}", plan::summary(&plan));
            hold(job, &plan);
            job.history.begun(job.generation, Now::ZERO, "");
            job.history.formed(now, roster.len(), 0);
            job.news.formed(now, 0);
            let formed = plan::generation(&plan, job.generation, roster, None);
            job.plan = Some(Box::new(plan));
            job.phase = Phase::Running { formed: Box::new(formed), since: now, suspicion: None };
            hang::formed(now, job);
            reason
        }
        Err(e) => {
            let text = format!("the job cannot be run as configured: {e}");
            failure::fail(now, job, AbortKind::Configuration, None, text).unwrap_or_default()
        }
    }
}
