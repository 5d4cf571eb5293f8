//! How a job fails: who is to blame, and what is only an echo.

use super::{Job, Phase, Suspicion, join, regroup, saver};
use crate::chronicle::Found;
use crate::config::CoordinatorConfig;
use crate::journal::Record;
use crate::journal::record::Suspected;
use crate::liveness::{self, Lost};
use crate::membership::{Member, Members, NAMED, Now, missing};
use crate::text::{MAX_REASON, MAX_STATUS, line};
use octrain_proto::v1::{Abort, AbortKind, FailureKind};

/// Echoes kept.
const MAX_ECHOES: usize = 64;

/// Ends the job, unless it has ended. `culprit` is the name of the worker to blame, if one is.
pub(super) fn fail(
    now: Now,
    job: &mut Job,
    kind: AbortKind,
    culprit: Option<&str>,
    message: String,
) -> Option<String> {
    if job.outcome().is_some() {
        return None;
    }
    let held = job.held.filter(|_| matches!(kind, AbortKind::WorkerLost | AbortKind::WorkerFailed));
    let held = held.map_or(String::new(), |why| format!(" ({why})"));
    let message = line(&message, MAX_REASON - held.len()) + &held;
    let blamed = culprit.and_then(|name| job.members.get(name));
    let (culprit, saver) = (blamed.and_then(|m| m.rank), saver::named(job, kind, blamed));
    let abort = Abort { kind: kind.into(), message: message.clone(), culprit, saver };
    job.phase = Phase::Failed { at: now, abort };
    Some(message)
}

/// A worker says that it failed, in a generation that may be over.
pub(super) fn reported(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    (name, generation): (&str, u64),
    message: String,
    kind: FailureKind,
) -> Option<String> {
    let (ended, current, unheard) = (job.outcome().is_some(), job.generation, job.unheard);
    let member = job.members.get_mut(name)?;
    // The job goes on without it, whatever it says; and what it said before it came to a later generation is late.
    let late = generation < member.generation && !member.has_not_come(generation);
    if !ended && (member.dropped.is_some() || late) {
        member.told |= member.dropped.is_some();
        return None;
    }
    if member.drained {
        member.told = true;
        return None;
    }
    if !ended && member.joins {
        return join::gone(now, job, name, &format!("failed: {message}"));
    }
    // One that came to a running job and has done no step there says of itself what others, who run, do not meet; but numbers
    // that are not finite are those of all.
    let untried = member.untried && kind != FailureKind::NotFinite;
    let collectives = member.collectives;
    let again = std::mem::replace(&mut member.failed, true);
    let waited = kind == FailureKind::Waited;
    let echo = waited || kind == FailureKind::Communication;
    let what = match kind {
        FailureKind::Waited => "waited in vain",
        FailureKind::NotFinite => "found that the training has failed",
        FailureKind::External => "found the job held up from outside",
        FailureKind::Leaving => "has left before a boundary between two steps had come",
        _ => "failed",
    };
    let said = format!("{} {what}: {message}", member.describe());
    if ended {
        if let Some(m) = job.members.get_mut(name) {
            m.told = true;
        }
        if job.echoes.len() < MAX_ECHOES {
            job.echoes.push(said);
        }
        return None;
    }
    // Of a generation that is over: this worker does not come to the next one, which the others form without it; what is
    // no worker's fault they will meet themselves.
    let kind = match kind {
        FailureKind::Leaving => kind,
        _ if generation < current || untried => FailureKind::Own,
        kind => kind,
    };
    if kind == FailureKind::Configuration {
        return fail(now, job, AbortKind::Configuration, Some(name), said);
    }
    // All workers hold the same numbers: whoever says it first is no more to blame than the others.
    if kind == FailureKind::NotFinite {
        return fail(now, job, AbortKind::NotFinite, None, said);
    }
    if kind == FailureKind::External {
        return fail(now, job, AbortKind::External, None, said);
    }
    let found = if kind == FailureKind::Leaving { Found::Left } else { Found::Failed };
    if let Some(reason) = regroup::go_on_without(now, job, config, name, (found, &said)) {
        return Some(reason);
    }
    // It was to leave while enough were left, which others have changed; it is no failure.
    if kind == FailureKind::Leaving {
        return fail(now, job, AbortKind::Shutdown, None, said);
    }
    // A worker whose connection broke before this report came is the likelier cause of a failed collective; but not
    // where another one had fallen silent before that, of which both may be the echo.
    let first = job.members.iter().filter(|(_, m)| m.counted() && m.disconnected.is_some());
    if let Some((gone, m)) = first.min_by_key(|(_, m)| m.disconnected)
        && echo
        && liveness::silent_before(m, &job.members, config).is_none()
    {
        let lost = liveness::found(now, gone, m);
        return lose(now, job, config, &lost, Some(&said));
    }
    match &mut job.phase {
        Phase::Running { suspicion, .. } if echo => {
            // Of those that this coordinator has yet to find, after one that died, any may be the root cause.
            let until = (now + config.heartbeat_timeout).max(unheard);
            let (member, message) = (name.into(), said.clone());
            let suspected = Suspected { member, message, waited, collectives };
            if suspect(suspicion, &suspected, until) || !again {
                job.kept.push(Record::Suspected(suspected));
            }
            Some(format!("{said}; waiting for the root cause"))
        }
        Phase::Running { suspicion: Some(s), .. } => {
            let text = format!("{said} (noticed first by: {})", s.message);
            job.tell_lost(now, name, found, &text);
            fail(now, job, AbortKind::WorkerFailed, Some(name), text)
        }
        _ => {
            job.tell_lost(now, name, found, &said);
            fail(now, job, AbortKind::WorkerFailed, Some(name), said)
        }
    }
}

/// Takes in what one has said of a collective, whose root cause is awaited `until` then where nothing was before; whether that changes
/// anything.
pub(super) fn suspect(suspicion: &mut Option<Suspicion>, said: &Suspected, until: Now) -> bool {
    let Suspected { member, message, waited, .. } = said.clone();
    let until = match suspicion {
        None => until,
        // A broken connection is what others fall over when one gives up waiting, and may come first. Who waited knows more:
        // that nothing broke, and which call was not reached.
        Some(s) if waited && !s.waited => s.until,
        Some(_) => return false,
    };
    *suspicion = Some(Suspicion { until, member, message, waited });
    true
}

/// Time has passed.
pub(super) fn tick(now: Now, job: &mut Job, config: &CoordinatorConfig) -> Option<String> {
    if job.outcome().is_some() {
        return None;
    }
    if let Some(text) = join::overdue(now, job, config) {
        return Some(text);
    }
    let lost = liveness::lost(now, &job.members, config);
    if let Some(first) = lost.first() {
        return match job.phase {
            Phase::Gathering => {
                let text: Vec<String> = lost.iter().filter_map(|l| forget(now, job, l)).collect();
                Some(text.join("; "))
            }
            // Its connection broke, and it has yet to be silent for the full time-out: an older silence comes first.
            // Where the job goes on, nobody has to be blamed.
            _ if !job.survives && liveness::awaits_older(first, &job.members, config) => None,
            _ => {
                let others =
                    lost[1..].iter().filter_map(|l| job.members.get(&l.member).map(Member::describe));
                let others: Vec<String> = others.collect();
                let also = (!others.is_empty()).then(|| format!("also silent: {}", others.join(", ")));
                lose(now, job, config, first, also.as_deref())
            }
        };
    }
    match &job.phase {
        Phase::Running { suspicion: Some(s), .. } if s.until <= now => {
            if s.waited {
                let (culprit, text) = absent(s, &job.members);
                return fail(now, job, AbortKind::WorkerLost, culprit.as_deref(), text);
            }
            let (by, text) = (s.member.clone(), format!("{} (no other worker has failed)", s.message));
            fail(now, job, AbortKind::WorkerFailed, Some(&by), text)
        }
        Phase::Reforming { .. } => regroup::overdue(now, job, config),
        Phase::Running { since, .. } if now >= *since + config.regroup_timeout => {
            join::unconnected(now, job, config)
        }
        Phase::Gathering if now >= config.register_timeout => {
            let who = missing(config, &job.members).unwrap_or_default();
            let mut text = format!(
                "not all workers registered within {:.0} s: {who}",
                config.register_timeout.as_secs_f64()
            );
            if let Some((_, last)) = job.refusals.back() {
                text.push_str(&format!("; last heard: {last}"));
            }
            fail(now, job, AbortKind::RegisterTimeout, None, text)
        }
        _ => None,
    }
}

/// For whom a worker waited until the deadline though all of them live: the name of the one to blame, where there is
/// just one, and what to say. Counted are the collectives that each has entered.
fn absent(waited: &Suspicion, members: &Members) -> (Option<String>, String) {
    let entered = members.get(&waited.member).map_or(0, |m| m.collectives);
    let mut behind: Vec<(&String, &Member)> = members
        .iter()
        .filter(|(_, m)| !m.left && !m.drained && m.dropped.is_none() && !m.joins && m.collectives < entered)
        .collect();
    behind.sort_by_key(|(_, m)| m.rank);
    let said = &waited.message;
    if behind.is_empty() {
        let text = format!(
            "{said}; every rank had reached that call, so none is to blame by what is known: the network between them, or a GPU, hangs"
        );
        return (None, text);
    }
    let named: Vec<String> = behind.iter().take(NAMED).map(|(_, m)| m.describe()).collect();
    let more = behind.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!(
        "{said}; ranks that had not reached that call: {}{more}; look there for a GPU, a file system or a loader that hangs",
        named.join(", ")
    );
    let culprit = (behind.len() == 1).then(|| behind[0].0.clone());
    (culprit, text)
}

/// A running job loses a worker: it goes on without it, or ends.
pub(super) fn lose(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    lost: &Lost,
    noticed: Option<&str>,
) -> Option<String> {
    let member = job.members.get_mut(&lost.member)?;
    if member.joins {
        return join::gone(now, job, &lost.member, &format!("is lost: {}", lost.cause));
    }
    member.failed = true;
    let mut text = format!("{} is lost: {}", member.describe(), lost.cause);
    let suspected = match &job.phase {
        Phase::Running { suspicion: Some(s), .. } => Some(s.message.clone()),
        _ => None,
    };
    if let Some(by) = noticed.map(str::to_string).or(suspected) {
        text.push_str(&format!(" [{by}]"));
    }
    if let Some(reason) = regroup::go_on_without(now, job, config, &lost.member, (lost.found, &text)) {
        return Some(reason);
    }
    job.tell_lost(now, &lost.member, lost.found, &text);
    if let Some(member) = job.members.get_mut(&lost.member) {
        member.told = true;
    }
    // Workers give up a coordinator that is silent for twice the time that they have themselves.
    let patience = config.heartbeat_timeout * 2;
    match job.held_up {
        Some((at, by)) if by >= patience && now.saturating_sub(at) <= patience => {
            let text = format!(
                "the coordinator itself stood still for {:.1} s (stopped, or its host is overloaded), longer than workers wait for it; {text}",
                by.as_secs_f64()
            );
            fail(now, job, AbortKind::WorkerLost, None, text)
        }
        _ => fail(now, job, AbortKind::WorkerLost, Some(&lost.member), text),
    }
}

/// A job that has not started forgets a lost worker; another may take its place.
pub(super) fn forget(now: Now, job: &mut Job, lost: &Lost) -> Option<String> {
    let member = job.remove(&lost.member)?;
    let text = format!("{} is lost before the start: {}", member.describe(), lost.cause);
    job.tell_forgotten(now, &member, &text);
    job.remember(member.place().to_string(), text.clone());
    Some(text)
}

impl Job {
    /// Keeps a refused registration, or a lost one, for messages.
    pub(super) fn remember(&mut self, place: String, text: String) {
        // A worker that asks again and again takes one place.
        self.refusals.retain(|(other, _)| *other != place);
        if self.refusals.len() == 16 {
            self.refusals.pop_front();
        }
        self.refusals.push_back((place, line(&text, MAX_STATUS)));
    }
}
