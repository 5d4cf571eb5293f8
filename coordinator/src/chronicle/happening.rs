//! What happens to a job, for whoever watches it: plain data, whose fields are the keys of the event file.

use super::summary::Report;
use crate::membership::{Member, Now};
use serde::Serialize;
use std::time::Duration;

/// Workers of a roster that are told; of more, their number is.
pub const ROSTER: usize = 1024;

/// One thing that has happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// When, on the coordinator's clock.
    pub at: Now,
    /// Of which generation.
    pub generation: u64,
    /// What.
    pub what: Happening,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Who {
    /// Its host.
    pub host: String,
    /// Its place there.
    pub local_index: u32,
    /// Its process there.
    pub pid: u32,
    /// Its rank in the last generation that it was in; none before the first.
    pub rank: Option<u32>,
}

impl From<&Member> for Who {
    fn from(m: &Member) -> Self {
        let facts = &m.facts;
        Self { host: facts.host.clone(), local_index: facts.local_index, pid: facts.pid, rank: m.rank }
    }
}

/// How it is known that a worker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Its launcher saw its end.
    Exited,
    /// It was not heard for the heartbeat time-out.
    Silent,
    /// Its connection broke, and it was not heard any more.
    Disconnected,
    /// It said so itself.
    Failed,
    /// It left before others could do without it.
    Left,
    /// It lives, and did not come to the next generation in time.
    NotAttached,
    /// It was let in, and not all were connected in time.
    NotConnected,
    /// It was let in again and again, and no step was done with it.
    InVain,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Happening {
    /// This coordinator listens.
    CoordinatorStarted {
        address: String,
        version: &'static str,
        pid: u32,
        world_size: u32,
        min_world: u32,
        max_world: u32,
        phase: &'static str,
    },
    /// A worker has come: one of those that the job waits for, or to the running job.
    WorkerRegistered { worker: Who, joins: bool, present: u32, wanted: u32 },
    /// One that has come to the running job is let in at the next boundary.
    WorkerReady { worker: Who },
    /// Nothing depended on it: it went before the start, or before it was let in.
    WorkerForgotten { worker: Who, why: String },
    /// What holds for the run.
    PlanDecided {
        plan_sha256: String,
        world_size: u32,
        min_world: u32,
        microbatches: u64,
        microbatch_size: u64,
        total_steps: u64,
    },
    /// All had come, and have their ranks.
    GenerationFormed {
        world_size: u32,
        roster: Vec<Who>,
        roster_left_out: usize,
        joined: Vec<u32>,
        source: Option<u32>,
        step: u64,
    },
    /// A worker that came is a member of a generation.
    WorkerJoined { worker: Who },
    /// The first step of a generation is finished, and how long what was before it took.
    FirstStep(Recovery),
    /// A collective of a worker's failed, and its root cause is awaited.
    CollectiveFailed { worker: Who, waited: bool, why: String },
    /// The job has a worker no more.
    WorkerLost { worker: Who, found: Found, why: String, detect_s: f64, step: u64 },
    /// A worker was asked to stop, alone.
    WorkerDraining { worker: Who, all_stop: bool },
    /// It has left, as it was asked to or as fewer are wanted.
    WorkerDrained { worker: Who, asked: bool },
    /// Another number of workers is wanted.
    Resized { workers: u32 },
    /// A generation is over; what it has done is none where it began under an earlier coordinator.
    GenerationOver { why: String, planned: bool, ran_s: Option<f64>, steps: Option<u64> },
    /// Workers wait in an operation that others have not entered, for too long; ranks up to [`ROSTER`].
    Hang { why: String, behind: Vec<u32>, waiting: Vec<u32>, number: u64, bytes: u64 },
    /// It is over, perhaps with its generation.
    HangOver { why: String, lasted_s: f64 },
    /// A worker takes much longer than most for its own part of a step.
    WorkerSlow { worker: Who, own_s: f64, times_median: f64 },
    /// It no longer does.
    WorkerNoLongerSlow { worker: Who, own_s: f64, times_median: f64, lasted_s: f64 },
    /// A worker has done its part, or was asked to stop with all.
    WorkerDone { worker: Who, interrupted: bool },
    /// This coordinator stood still.
    CoordinatorHeldUp { held_s: f64 },
    /// All have left.
    JobFinished { interrupted: bool, step: u64 },
    /// The job has ended by a cause.
    JobFailed { kind: &'static str, why: String, culprit: Option<Who>, saver: Option<Who>, step: u64 },
    /// This coordinator is at its end, and not the job.
    CoordinatorRetired { why: String, step: u64 },
    /// What became of the job, in all.
    Report(Box<Report>),
    /// Lines are missing before this one.
    LeftOut { lines: u64 },
}

/// How long it took to a generation's first step. What is not known is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Recovery {
    /// The step, counted from the beginning of the run.
    pub step: u64,
    /// The generation before it ended between two steps, in good order.
    pub planned: bool,
    /// From the last sign of life of the worker that was lost until that was known.
    pub detect_s: Option<f64>,
    /// From there, or from the end of the generation before, until all had come and had their ranks.
    pub abort_s: Option<f64>,
    /// From there until they were connected to each other.
    pub reform_s: Option<f64>,
    /// From there until all had the same state.
    pub transfer_s: Option<f64>,
    /// From there until the step was finished.
    pub step_s: Option<f64>,
    /// From the end of the generation before until the step was finished; of the first, since it was formed.
    pub total_s: f64,
    /// From the last step that was finished before, where one was, until this one was.
    pub still_s: Option<f64>,
}

/// Seconds, to the microsecond.
pub fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}
