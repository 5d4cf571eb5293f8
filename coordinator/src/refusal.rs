//! Why a call is refused.

use crate::ranks::Place;
use crate::resize::ResizeRefusal;
use crate::store::StoreRefusal;
use octrain_proto::v1::{Abort, AbortKind};

/// A refused call. The job goes on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Versions differ.
    #[error(
        "protocol version {theirs} of this worker is not the coordinator's version {ours}: install the same octrain version on every machine"
    )]
    Protocol {
        /// The worker's.
        theirs: u32,
        /// The coordinator's.
        ours: u32,
    },
    /// Another job.
    #[error("this coordinator serves job `{ours}`, not `{theirs}`: check --coordinator and --job-id")]
    Job {
        /// Asked for.
        theirs: String,
        /// Served.
        ours: String,
    },
    /// A generation that is over, or never was.
    #[error(
        "generation {theirs} is stale: job `{job}` is in generation {ours}; this worker belongs to an earlier start and must stop"
    )]
    Stale {
        /// The caller's.
        theirs: u64,
        /// The current one.
        ours: u64,
        /// The job.
        job: String,
    },
    /// Not registered here.
    #[error(
        "worker `{member}` is not registered with this coordinator (was it restarted?); the worker must stop and register anew"
    )]
    Unknown {
        /// What the caller calls itself.
        member: String,
    },
    /// Registered, but no longer counted.
    #[error("worker `{member}` has left the job already")]
    Left {
        /// The caller.
        member: String,
    },
    /// Place taken.
    #[error(
        "{place} is taken by pid {pid}, alive {silent_ms} ms ago: two launches on one host, or an old one that is still there; start all workers of a host with one `octrain launch --nproc-per-node N`, give a second launch a host name of its own (OCTRAIN_HOST=NAME), or wait until the old one is gone"
    )]
    Duplicate {
        /// The place.
        place: Place,
        /// Process that has it.
        pid: u32,
        /// Since it was last heard.
        silent_ms: u64,
    },
    /// Not one of those expected.
    #[error("{place} is not one of the workers this job expects: {expected}")]
    Unexpected {
        /// The place.
        place: Place,
        /// The expected ones.
        expected: String,
    },
    /// Complete already.
    #[error(
        "job `{job}` has all its {world} workers and is running: no other can join this generation; check --world-size and --nproc-per-node"
    )]
    Full {
        /// The job.
        job: String,
        /// Its size.
        world: u32,
    },
    /// Another configuration than the first worker's.
    #[error(
        "{place} is configured differently from {other}, which came first: {}; start every worker with the same flags", differences.join("; ")
    )]
    Mismatch {
        /// The worker.
        place: Place,
        /// The first one.
        other: Place,
        /// `key: this against that`.
        differences: Vec<String>,
    },
    /// A configuration that cannot be run, whoever else comes.
    #[error("{0}")]
    Configuration(String),
    /// A request that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The store was asked before there is a plan.
    #[error("the store opens once all workers are registered; ask for the plan first")]
    NotRunning,
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreRefusal),
    /// The job does not become one of so many workers.
    #[error(transparent)]
    Resize(#[from] ResizeRefusal),
    /// The job is over.
    #[error("the job has ended: {}", .0.message)]
    Ended(Abort),
    /// The job is over, and went well.
    #[error("the job has finished; start a new one")]
    Finished,
    /// More is asked than can be kept.
    #[error("the coordinator has more calls waiting than it can keep; ask again in a while")]
    Busy,
    /// Another coordinator of the job is to be asked, which may have yet to be started.
    #[error("this coordinator is not the job's any more: {0}")]
    Retired(String),
    /// The coordinator goes away.
    #[error("the coordinator is shutting down")]
    Gone,
    /// A stranger, or somebody who forgot the token.
    #[error(
        "the job has a token, and this call has none: give the coordinator's --token-file here too, or the token in OCTRAIN_TOKEN"
    )]
    TokenMissing,
    /// Somebody of another job.
    #[error(
        "the token of this call is not the job's: give the coordinator's --token-file here too, or its token in OCTRAIN_TOKEN"
    )]
    TokenOther,
    /// Who counts on a token must not believe that there is one.
    #[error(
        "the call has a token, and the job has none: start the coordinator with --token-file (or OCTRAIN_TOKEN), or leave the token out here"
    )]
    TokenUnwanted,
}

impl Refusal {
    /// Whether a worker that was meant to be one of the job's is configured so that the job can never be run with it.
    pub fn ends_the_wait(&self) -> bool {
        matches!(self, Refusal::Protocol { .. } | Refusal::Mismatch { .. } | Refusal::Configuration(_))
    }

    /// Kind, in kebab case, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Refusal::Protocol { .. } => "protocol",
            Refusal::Job { .. } => "job",
            Refusal::Stale { .. } => "stale-generation",
            Refusal::Unknown { .. } => "unknown-member",
            Refusal::Left { .. } => "left",
            Refusal::Duplicate { .. } => "duplicate",
            Refusal::Unexpected { .. } => "unexpected",
            Refusal::Full { .. } => "full",
            Refusal::Mismatch { .. } => "config-mismatch",
            Refusal::Configuration(_) => "configuration",
            Refusal::Invalid(_) => "invalid",
            Refusal::NotRunning => "not-running",
            Refusal::Store(_) => "store",
            Refusal::Resize(ResizeRefusal::NotStarted { .. }) => "not-running",
            Refusal::Resize(_) => "resize",
            Refusal::Ended(abort) => match abort.kind() {
                AbortKind::Configuration => "ended-configuration",
                AbortKind::NotFinite => "ended-not-finite",
                AbortKind::Dropped => "ended-dropped",
                _ => "ended",
            },
            Refusal::Finished => "finished",
            Refusal::Busy => "busy",
            Refusal::Retired(_) => "retired",
            Refusal::Gone => "gone",
            Refusal::TokenMissing | Refusal::TokenOther | Refusal::TokenUnwanted => "token",
        }
    }
}
