//! Where this worker is, as every heartbeat says.

use super::background::Shared;
use super::{Generation, Session};
use crate::collective::{Operation, Waiting};
use crate::launcher::watchdog::{self, Phase};
use octrain_proto::v1;
use octrain_proto::v1::{Activity, Header, HeartbeatRequest};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What the trainer says of itself, besides its collectives.
#[derive(Default)]
pub(super) struct Work {
    /// It waits for images.
    loads: AtomicBool,
    /// Steps, and the microseconds that they took without waiting for other workers.
    steps: AtomicU64,
    own_us: AtomicU64,
}

/// Waits for images until it is dropped. See [`Session::loads`].
#[must_use = "dropping it ends the wait"]
pub struct Loading<'a>(&'a AtomicBool);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Session {
    /// Enters another place where the workers of a generation wait for each other, this worker's own part of it done. Until the
    /// answer is dropped it waits there.
    pub fn meets<'a>(&self, generation: &'a Generation, operation: Operation) -> Waiting<'a> {
        generation.whereabouts().enter(operation, 0);
        generation.whereabouts().wait()
    }

    /// Says that the training waits for the images of its next step, until the answer is dropped.
    pub fn loads(&self) -> Loading<'_> {
        self.shared.work.loads.store(true, Ordering::Relaxed);
        Loading(&self.shared.work.loads)
    }

    /// Says how long a step took this worker without waiting for others: what makes it a straggler.
    pub fn worked(&self, own: Duration) {
        let own = u64::try_from(own.as_micros()).unwrap_or(u64::MAX);
        self.shared.work.own_us.fetch_add(own, Ordering::Relaxed);
        self.shared.work.steps.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// A heartbeat of this moment, for a generation that this worker is in; `header` is that of its membership.
    pub(super) fn beat(&self, header: Header, current: &Generation) -> HeartbeatRequest {
        HeartbeatRequest {
            header: Some(Header { generation: current.number(), ..header }),
            step: self.step.load(Ordering::Relaxed),
            collectives: current.whereabouts().entered(),
            connected: current.is_connected(),
            leaving: self.departing.asked(),
            at: Some(self.at(current)),
        }
    }

    fn at(&self, current: &Generation) -> v1::Whereabouts {
        let (loads, at) = (self.work.loads.load(Ordering::Relaxed), current.whereabouts());
        let (operation, bytes) = at.last().map_or((v1::Operation::None, 0), |(o, bytes)| (named(o), bytes));
        v1::Whereabouts {
            activity: activity(watchdog::phase(), loads).into(),
            operation: operation.into(),
            bytes,
            waits: at.waits(),
            steps: self.work.steps.load(Ordering::Relaxed),
            own_us: self.work.own_us.load(Ordering::Relaxed),
        }
    }
}

fn activity(phase: Phase, loads: bool) -> Activity {
    match phase {
        Phase::Preparing => Activity::Preparing,
        Phase::Connecting => Activity::Connecting,
        Phase::Training if loads => Activity::Data,
        Phase::Training => Activity::Step,
        Phase::Evaluating => Activity::Evaluating,
        Phase::Saving => Activity::Saving,
    }
}

fn named(operation: Operation) -> v1::Operation {
    match operation {
        Operation::Connect => v1::Operation::Connect,
        Operation::Agree => v1::Operation::Agree,
        Operation::AllReduce => v1::Operation::AllReduce,
        Operation::Broadcast => v1::Operation::Broadcast,
        Operation::AllGather => v1::Operation::AllGather,
        Operation::Barrier => v1::Operation::Barrier,
    }
}
