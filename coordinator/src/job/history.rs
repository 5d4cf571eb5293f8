//! What became of each generation, for people: how long it took to be formed, to be connected, and to finish a step; and what was
//! noticed of the workers meanwhile.

use super::{Job, Phase};
use crate::membership::Now;
use octrain_proto::v1::{Notice, NoticeKind, PastGeneration};
use std::collections::VecDeque;
use std::time::Duration;

/// Generations, and notices, that are remembered.
const KEPT: usize = 16;

/// One generation. Times are this coordinator's.
#[derive(Debug, Clone, PartialEq)]
struct Past {
    generation: u64,
    /// Workers of it; 0 before it is formed.
    workers: u32,
    /// Why the one before is over; empty of the first.
    why: String,
    /// When the one before was over; of the first, when the coordinator started.
    begun: Now,
    /// Steps that its state has, which all take on.
    from: u64,
    /// Steps that a member of it has finished, as it said in it.
    reached: u64,
    formed: Option<Now>,
    connected: Option<Now>,
    stepped: Option<Now>,
    /// The first of its members, by their names, who is not known to be connected.
    awaited: String,
}

/// The last generations and notices, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    generations: VecDeque<Past>,
    /// With when they began.
    notices: VecDeque<(Now, Notice)>,
}

impl History {
    /// A generation is to come, since the one before it is over.
    pub(super) fn begun(&mut self, generation: u64, now: Now, why: &str) {
        let (why, none) = (why.to_string(), None);
        let (formed, connected, stepped) = (none, none, none);
        let (workers, from, reached) = (0, 0, 0);
        let awaited = String::new();
        let past =
            Past { generation, workers, why, begun: now, from, reached, formed, connected, stepped, awaited };
        self.generations.push_back(past);
        self.generations.drain(..self.generations.len().saturating_sub(KEPT));
    }

    /// The one to come is formed, of so many workers; they go on after step `from`.
    pub(super) fn formed(&mut self, now: Now, workers: usize, from: u64) {
        if let Some(past) = self.generations.back_mut() {
            (past.workers, past.from, past.reached) = (workers as u32, from, from);
            past.formed = Some(now);
        }
    }

    /// Why the last one has begun.
    pub(super) fn why(&self) -> String {
        self.generations.back().map_or_else(String::new, |past| past.why.clone())
    }

    /// A member of the current one has finished so many steps.
    pub(super) fn reached(&mut self, step: u64) {
        if let Some(past) = self.generations.back_mut() {
            past.reached = past.reached.max(step);
        }
    }

    /// Looks at the job after something has happened to it.
    pub(super) fn look(&mut self, now: Now, job: &Job) {
        let Some(past) = self.generations.back_mut() else { return };
        if past.stepped.is_some() || !matches!(job.phase, Phase::Running { .. }) {
            return;
        }
        // Whoever has finished a step was connected.
        if past.reached > past.from {
            past.stepped = Some(now);
        }
        if past.connected.is_none() {
            // Nobody who is connected ceases to be so: whoever came before stays looked at.
            match job.unconnected_from(&past.awaited) {
                Some(name) if past.stepped.is_none() => past.awaited.clone_from(name),
                _ => past.connected = Some(now),
            }
        }
    }

    /// As it is told, oldest first.
    pub(super) fn told(&self, now: Now) -> Vec<PastGeneration> {
        let told = |p: &Past| {
            let after = |at: Option<Now>| at.map(|at| at.saturating_sub(p.begun).as_millis() as u64);
            PastGeneration {
                generation: p.generation,
                workers: p.workers,
                why: p.why.clone(),
                ago_ms: now.saturating_sub(p.begun).as_millis() as u64,
                formed_ms: after(p.formed),
                connected_ms: after(p.connected),
                stepped_ms: after(p.stepped),
            }
        };
        self.generations.iter().map(told).collect()
    }

    /// Steps that the state has which all of the current generation took on.
    pub(super) fn from(&self) -> u64 {
        self.generations.back().map_or(0, |past| past.from)
    }

    /// Something is noticed, which began at `began`.
    pub(super) fn notice(&mut self, began: Now, notice: Notice) {
        let kind = notice.kind();
        self.notices.push_back((began, notice));
        // Those of one kind do not push out the others.
        let alike = |(_, n): &(Now, Notice)| n.kind() == kind;
        if self.notices.iter().filter(|n| alike(n)).count() > KEPT
            && let Some(first) = self.notices.iter().position(alike)
        {
            self.notices.remove(first);
        }
    }

    /// All notices of a kind that go on are over.
    pub(super) fn all_over(&mut self, now: Now, kind: NoticeKind) {
        for (began, notice) in self.notices.iter_mut().filter(|(_, n)| n.kind() == kind) {
            notice.lasted_ms.get_or_insert(now.saturating_sub(*began).as_millis() as u64);
        }
    }

    /// The last notice of those that go on of which something holds is over, having lasted so long.
    pub(super) fn over(&mut self, lasted: Duration, of: impl Fn(&Notice) -> bool) {
        let goes_on = |(_, n): &&mut (Now, Notice)| n.lasted_ms.is_none() && of(n);
        if let Some((_, notice)) = self.notices.iter_mut().rev().find(goes_on) {
            notice.lasted_ms = Some(lasted.as_millis() as u64);
        }
    }

    /// Notices as they are told, oldest first.
    pub(super) fn notices(&self, now: Now) -> Vec<Notice> {
        let told = |(began, notice): &(Now, Notice)| Notice {
            ago_ms: now.saturating_sub(*began).as_millis() as u64,
            ..notice.clone()
        };
        self.notices.iter().map(told).collect()
    }
}
