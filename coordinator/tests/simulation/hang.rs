//! Trainers that stand still while their processes go on: heartbeats come, and nothing is entered. Who is said to hang then is one of
//! those.

use super::process::{Doing, Process};
use super::world::{What, World};
use octrain_proto::v1::{Activity, Notice, NoticeKind, Operation, Whereabouts};
use std::time::Duration;

/// Longest time until a hang is told of, from its begin.
const TOLD: u64 = 10_000;
/// What was so a moment ago may not have been heard yet.
const HEARD: u64 = 1500;

/// Where a process is, as its heartbeat says.
pub fn at(p: &Process) -> Whereabouts {
    let activity = match (p.doing, p.connected) {
        (Doing::Train, false) => Activity::Connecting,
        (Doing::Train, true) => Activity::Step,
        _ => Activity::Preparing,
    };
    let (activity, operation) = (activity.into(), Operation::AllReduce.into());
    Whereabouts { activity, operation, bytes: 4, waits: p.waits, ..Whereabouts::default() }
}

/// A hang that was done to a process.
#[derive(Debug, Clone, Copy)]
pub struct Hung {
    since: u64,
    until: u64,
    /// Nothing else goes wrong, and it was amid its steps: it has to be told of.
    plain: bool,
}

impl World {
    /// The trainer of a process stands still for so long.
    pub(super) fn hang(&mut self, process: usize, long: u64) {
        let (now, setting) = (self.now, self.setting);
        let p = &mut self.processes[process];
        if p.doing != Doing::Train || p.hung.is_some_and(|hung| hung.until >= now) {
            return;
        }
        let step = p.state.map_or(0, |s| s.step);
        let amid = p.connected && step >= 4 && step + 2 < setting.steps;
        let plain = amid && setting.faults == 1 && setting.bad_network == 0 && long > TOLD + HEARD;
        p.hung = Some(Hung { since: now, until: now + long, plain });
        self.say(format!("the trainer of process {process} stands still for {long} ms"));
    }

    /// Whether something that happens to a process waits, as its trainer stands still.
    pub(super) fn held_up(&mut self, process: usize, what: What) -> Option<What> {
        let p = &self.processes[process];
        let Some(Hung { until, .. }) = p.hung.filter(|h| h.until > self.now && p.doing == Doing::Train)
        else {
            return Some(what);
        };
        match what {
            What::Go { .. } | What::Broken { .. } | What::Regroup { .. } => {
                self.at(until, what);
                None
            }
            what => Some(what),
        }
    }

    /// Whom the coordinator has just said to hang.
    pub(super) fn hangs(&mut self) -> Result<(), String> {
        let notices = self.host.job().notices(Duration::from_millis(self.now));
        let hangs: Vec<Notice> = notices.into_iter().filter(|n| n.kind() == NoticeKind::Hang).collect();
        let Some(last) = hangs.last().filter(|n| n.lasted_ms.is_none() && self.told_of != n.message) else {
            return Ok(());
        };
        self.told_of.clone_from(&last.message);
        if last.ranks.is_empty() {
            return Err(format!("nobody is said to hang: {}", last.message));
        }
        for rank in &last.ranks {
            // It may have ended since it was heard.
            let of_it = |p: &&Process| p.generation == last.generation && p.rank() == *rank;
            let stood_still = |hung: Hung| hung.since < self.now && hung.until + HEARD > self.now;
            if !self.processes.iter().filter(of_it).filter_map(|p| p.hung).any(stood_still) {
                return Err(format!("rank {rank} did not hang: {}", last.message));
            }
        }
        Ok(())
    }

    /// What was done to whom and had to be told of, was it not.
    pub(super) fn untold(&self) -> Result<(), String> {
        let told = self.host.job().notices(Duration::ZERO);
        for p in &self.processes {
            let Some(hung) = p.hung.filter(|hung| hung.plain) else { continue };
            let of_it = |n: &Notice| n.ranks == [p.rank()] && n.lasted_ms.is_some();
            if told.len() != 1 || !of_it(&told[0]) {
                return Err(format!("a hang from {} to {} was told as {told:?}", hung.since, hung.until));
            }
        }
        Ok(())
    }
}
