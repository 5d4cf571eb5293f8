//! What happens to a job, and what those who ask get.

use crate::refusal::Refusal;
use octrain_proto::v1::{
    Abort, Departure, ExitedRequest, FailureKind, Generation, GetPlanReply, GiveUpRequest, Header,
    RegisterReply, RegisterRequest, Regroup, Standing, StatusReply, StepReport, Whereabouts,
};
use std::sync::Arc;
use std::time::Duration;

/// How often a call that may wait was asked. Only the first time is a sign of life of the caller; later ones are
/// the coordinator's own asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// By the caller.
    First,
    /// After a change.
    Again,
    /// The caller's time is up.
    Expired,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Event {
    Register(Box<RegisterRequest>),
    GiveUp(Box<GiveUpRequest>),
    GetPlan {
        header: Header,
        wait: Wait,
    },
    Heartbeat(Header, Beat),
    /// A worker's generation is over.
    Attach {
        header: Header,
        standing: Option<Standing>,
        message: String,
        wait: Wait,
    },
    /// A launcher has seen a worker's end.
    Exited(Box<ExitedRequest>),
    Watch {
        header: Header,
    },
    /// A watch broke.
    Disconnected {
        member: String,
        watch: u64,
    },
    ReportStep {
        header: Header,
        report: StepReport,
    },
    ReportFailure {
        header: Header,
        message: String,
        kind: FailureKind,
    },
    Leave {
        header: Header,
        interrupted: bool,
        before_plan: bool,
    },
    StoreSet {
        header: Header,
        key: String,
        value: Vec<u8>,
    },
    StoreGet {
        header: Header,
        key: String,
        wait: Wait,
    },
    StoreAdd {
        header: Header,
        key: String,
        amount: i64,
    },
    StoreCheck {
        header: Header,
        keys: Vec<String>,
    },
    StoreDelete {
        header: Header,
        key: String,
    },
    /// The job is to have so many workers.
    Resize {
        workers: u32,
    },
    /// Somebody asks, and will ask again soon (`watching`) or not.
    Status {
        watching: bool,
    },
    /// Time has passed, and everything that had arrived was taken in. Comes every [`crate::clock::TICK`].
    Tick,
    /// This coordinator stood still (stopped, starved, its machine suspended) for so long.
    HeldUp {
        by: Duration,
    },
    /// The coordinator is told to stop.
    Shutdown {
        why: String,
    },
}

/// What a worker says with a heartbeat.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Beat {
    /// Optimizer steps that it has finished.
    pub step: u64,
    /// Collectives of its generation that it has entered.
    pub collectives: u64,
    /// It is connected to the others of its generation.
    pub connected: bool,
    /// It was asked to stop, alone.
    pub leaving: bool,
    /// Where it is.
    pub at: Whereabouts,
}

/// What a heartbeat is answered with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// The job has ended, or goes on without the caller.
    pub abort: Option<Abort>,
    /// The caller's generation is over.
    pub regroup: Option<Regroup>,
    /// The caller's generation is to end at a boundary between two steps.
    pub boundary_wanted: bool,
    /// What becomes of a caller that is leaving.
    pub departure: Departure,
    /// A hang of its generation that goes on.
    pub hang: Option<Arc<String>>,
}

/// What a caller gets.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Reply {
    Registered(RegisterReply),
    Plan(Box<GetPlanReply>),
    Heartbeat(Box<Heard>),
    /// None: others are waited for, named by the text.
    Attached(Option<Generation>, String),
    /// The job goes on without the caller, which was to leave.
    Drained,
    /// Whether the job goes on.
    GoesOn(bool),
    /// It does without one that had left for want of room; whether another one is wanted in its place now.
    Vacant {
        recalled: bool,
    },
    /// What becomes of a wish, for people.
    Resized(String),
    Watching {
        member: String,
        watch: u64,
    },
    Done,
    Found(Option<Vec<u8>>),
    Sum(i64),
    Yes(bool),
    Status(Box<StatusReply>),
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Answered.
    Reply(Reply),
    /// Refused.
    Refuse(Refusal),
    /// Not yet: ask again after the next change, or with `expired` when the caller's time is up.
    Park,
    /// Nobody asked.
    None,
}

/// Which of the parked calls may have become answerable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wakes {
    /// None.
    Nobody,
    /// Those that wait for this key of the store.
    Key(String),
    /// All: the job has started, or ended, or one of its generations has.
    Everybody,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All workers left.
    Finished {
        /// At least one because it was interrupted.
        interrupted: bool,
    },
    /// By the first cause.
    Failed {
        /// The cause, naming the culprit.
        abort: Abort,
    },
    /// It has not: only this coordinator of it, which keeps a journal, is at its end, and another one may go on.
    Retired {
        /// Why.
        why: Retirement,
    },
}

/// Why a coordinator ends before its job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Retirement {
    /// Another one has taken over: a worker has heard of it, or it has written to the journal.
    #[error("{0}")]
    Superseded(String),
    /// What it is to tell cannot be kept.
    #[error("{0}; the workers go on, and a coordinator that is started anew with this journal finds them")]
    Journal(String),
}
