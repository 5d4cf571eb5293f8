//! How workers leave, and when the coordinator may go.

use super::{Applied, Job, Phase, done, failure, join, regroup};
use crate::chronicle::Found;
use crate::config::CoordinatorConfig;
use crate::journal::Record;
use crate::journal::record::Left;
use crate::membership::{Member, Now};
use crate::ranks::Place;
use octrain_proto::v1::{AbortKind, Header};
use std::collections::HashSet;
use std::time::Duration;

/// Whoever watches the job asks again within this time.
const WATCHING: Duration = Duration::from_secs(5);

/// A worker leaves: done, or asked to stop (`interrupted`); without a plan, or with what the others know of.
pub(super) fn leave(
    now: Now,
    job: &mut Job,
    config: &CoordinatorConfig,
    header: &Header,
    interrupted: bool,
    before_plan: bool,
) -> Applied {
    let member = job.member(header, config)?;
    member.heard(now);
    // One for which there was no room, whether it had been let in or not: its place is kept.
    if member.drained {
        member.told = true;
        return done(None);
    }
    if member.joins
        && let Some(text) = join::gone(now, job, &header.member, "left")
    {
        return done(Some(text));
    }
    let member = job.member(header, config)?;
    if member.has_not_come(header.generation) {
        let text =
            format!("{} left before it had come to generation {}", member.describe(), member.generation);
        let reason = regroup::go_on_without(now, job, config, &header.member, (Found::Left, &text));
        return done(reason.or_else(|| {
            job.tell_lost(now, &header.member, Found::Left, &text);
            failure::fail(now, job, AbortKind::WorkerLost, Some(&header.member), text)
        }));
    }
    member.left = true;
    let (who, place) = (member.describe(), member.place().to_string());
    let how = if interrupted { "left, interrupted" } else { "left" };
    match &job.phase {
        Phase::Gathering => {
            // Another may take its place; whom nobody replaces, the end names.
            let text = format!("{who} {how} before the start");
            if let Some(member) = job.remove(&header.member) {
                job.tell_forgotten(now, &member, &text);
            }
            job.remember(place, text.clone());
            done(Some(text))
        }
        // The plan was made and did not reach it. The others count on it, and have agreed on nothing yet.
        Phase::Running { .. } | Phase::Reforming { .. } if before_plan => {
            let (kind, why) = match interrupted {
                true => (AbortKind::Shutdown, "was asked to stop"),
                false => (AbortKind::WorkerLost, "gave up waiting"),
            };
            let text = format!("{who} {why} before its plan had reached it");
            // Others can do its part; it has done none, as those have who leave later.
            if !interrupted
                && let Some(reason) =
                    regroup::go_on_without(now, job, config, &header.member, (Found::Left, &text))
            {
                return done(Some(reason));
            }
            job.tell_lost(now, &header.member, Found::Left, &text);
            done(failure::fail(now, job, kind, Some(&header.member), text))
        }
        Phase::Running { .. } | Phase::Reforming { .. } => {
            job.interrupted |= interrupted;
            job.kept.push(Record::Left(Left { member: header.member.clone(), interrupted }));
            if job
                .members
                .values()
                .all(|m| m.joins || !m.counted() && (m.left || m.drained || m.dropped.is_some()))
            {
                job.phase = Phase::Finished { at: now, interrupted: job.interrupted };
                return done(Some(format!("{who} {how}; all have left, the job is finished")));
            }
            let formed = regroup::form(now, job).map_or_else(String::new, |text| format!("; {text}"));
            done(Some(format!("{who} {how}{formed}")))
        }
        _ => done(None),
    }
}

impl Job {
    /// Whether the coordinator may go: the job has ended, and everyone knows or has had time to.
    pub fn drained(&self, now: Now, config: &CoordinatorConfig) -> bool {
        // Those that have yet to find this coordinator, after one that died, come as late as ever they may.
        let waited = |at: Now| now >= (at + config.linger).max(self.unheard);
        match &self.phase {
            // Those that it went on without may yet ask what has become of it.
            Phase::Finished { at, .. } => {
                let heard = self.members.values().all(|m| m.left || m.told);
                (heard && !self.is_watched(now, *at)) || self.told_to_stop || waited(*at)
            }
            Phase::Failed { at, .. } => {
                let heard = waited(*at) || self.members.values().all(|m| m.left || m.told);
                let awaited = self.is_watched(now, *at) && !self.told_to_stop;
                heard && !awaited && (now >= *at + config.linger_for_late || !self.awaits_late(config))
            }
            _ => false,
        }
    }

    /// Whether somebody who wants to hear of the job's end, at `at`, is about to ask.
    fn is_watched(&self, now: Now, at: Now) -> bool {
        let asked = self.watched.filter(|asked| *asked < at && at <= *asked + WATCHING);
        asked.is_some() && now < at + WATCHING
    }

    /// Whether the job failed before it began and workers may yet come to hear of it.
    fn awaits_late(&self, config: &CoordinatorConfig) -> bool {
        let Phase::Failed { abort, .. } = &self.phase else { return false };
        let began = self.members.values().any(|m| m.rank.is_some());
        // Those who do not come in time are not awaited any longer, and who is told to stop goes.
        let over = abort.kind() == AbortKind::RegisterTimeout || self.told_to_stop;
        let members: HashSet<Place> = self.members.values().map(Member::place).collect();
        !began && !over && members.union(&self.told).count() < config.world_size as usize
    }
}
