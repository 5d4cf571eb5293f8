//! What can go wrong between a worker and its coordinator.

use octrain_proto::REFUSAL_KEY;
use octrain_proto::v1::{self, AbortKind};
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status};

/// An error of the session; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not an address.
    #[error("--coordinator `{address}` is not HOST:PORT, e.g. node-0:29400")]
    Address {
        /// What was given.
        address: String,
    },
    /// Never reached.
    #[error(
        "no coordinator reached at {address} within {} s: {last}; check that octrain-coordinator runs there, that the address is right and that no firewall is between (a longer wait: --connect-timeout)", waited.as_secs()
    )]
    Unreachable {
        /// Its address.
        address: String,
        /// How long it was tried.
        waited: Duration,
        /// Why the last attempt failed.
        last: String,
    },
    /// Reached, and one of the two sides does not trust the other.
    #[error("no connection to the coordinator at {address}: {why}")]
    Secured {
        /// Its address.
        address: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Reached, then lost.
    #[error(
        "the coordinator at {address} does not answer `{call}`: {why}; if it has been stopped, start the job anew from the last checkpoint"
    )]
    Lost {
        /// Its address.
        address: String,
        /// What was asked.
        call: &'static str,
        /// What happened.
        why: String,
    },
    /// Refused.
    #[error("the coordinator at {address} refuses: {message}")]
    Refused {
        /// Its address.
        address: String,
        /// Kind of the refusal, e.g. `duplicate`.
        kind: String,
        /// Its words.
        message: String,
    },
    /// Workers did not come.
    #[error("no plan within {} s: {waiting_for}", waited.as_secs())]
    NoPlan {
        /// How long it was waited for.
        waited: Duration,
        /// Who is missing.
        waiting_for: String,
    },
    /// The job has ended.
    #[error("the job was ended: {message}")]
    Ended {
        /// Names the culprit.
        message: String,
        /// Trying again will not help.
        configuration: bool,
    },
    /// The plan is not what its hash says, or not for this worker.
    #[error(
        "the plan cannot be trusted: {0}; use the same octrain version on every machine and start the job anew"
    )]
    Plan(String),
    /// Asked to stop while waiting.
    #[error("interrupted while waiting for {0}")]
    Interrupted(&'static str),
    /// It was to leave, and the job goes on without it.
    #[error("the job goes on without this worker, which was to leave")]
    Drained,
    /// Store key did not come.
    #[error("key `{key}` did not appear in the coordinator's store within {} s: a worker has not come that far", waited.as_secs_f32())]
    StoreTimeout {
        /// The key.
        key: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No background threads.
    #[error("cannot start the session's threads: {0}")]
    Runtime(std::io::Error),
}

impl SessionError {
    /// Whether trying the same again cannot help: a scheduler should not.
    pub fn is_configuration(&self) -> bool {
        match self {
            SessionError::Address { .. } | SessionError::Plan(_) | SessionError::Secured { .. } => true,
            SessionError::Refused { kind, .. } => {
                matches!(
                    kind.as_str(),
                    "protocol"
                        | "job"
                        | "unexpected"
                        | "config-mismatch"
                        | "configuration"
                        | "invalid"
                        | "token"
                )
            }
            SessionError::Ended { configuration, .. } => *configuration,
            _ => false,
        }
    }

    /// Whether another worker, or somebody from outside, ended the job.
    pub fn is_ended(&self) -> bool {
        matches!(self, SessionError::Ended { .. })
    }

    /// Whether another process is the cause, so that trying again may help: the job was ended, the coordinator is not
    /// there (yet, or any more), workers did not come, or this worker's place is still another one's.
    pub fn is_peers(&self) -> bool {
        match self {
            SessionError::Ended { configuration, .. } => !configuration,
            SessionError::Refused { kind, .. } => is_occupied(kind) || kind == "unknown-member",
            SessionError::Unreachable { .. } | SessionError::Lost { .. } | SessionError::NoPlan { .. } => {
                true
            }
            _ => false,
        }
    }

    /// A failed call as an error.
    pub(super) fn of_status(address: &str, call: &'static str, status: &Status) -> Self {
        if let Some(reason) = AbortReason::told_by(status) {
            return reason.into();
        }
        let message = status.message().to_string();
        match refusal(status) {
            "" | "gone" | "retired" => {
                SessionError::Lost { address: address.into(), call, why: words(status) }
            }
            kind => SessionError::Refused { address: address.into(), kind: kind.into(), message },
        }
    }
}

/// Kind of the refusal; empty where the coordinator said nothing.
fn refusal(status: &Status) -> &str {
    status.metadata().get(REFUSAL_KEY).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Whether a refusal says that the place or the job is taken: a worker that was started anew meets its predecessor
/// until that one is given up.
fn is_occupied(kind: &str) -> bool {
    matches!(kind, "duplicate" | "full")
}

/// Whether a refused registration may succeed later.
pub(super) fn is_occupied_for_now(status: &Status) -> bool {
    is_occupied(refusal(status))
}

/// Whether a refusal says that the job has finished well.
pub(super) fn is_finished(status: &Status) -> bool {
    refusal(status) == "finished"
}

/// Whether a failed call may be tried again: the coordinator was not reached and said nothing, or has too much to do.
pub(super) fn is_transient(status: &Status) -> bool {
    match refusal(status) {
        "" => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
        ),
        // This one is not the job's coordinator any more; another one is to come.
        kind => kind == "busy" || kind == "retired",
    }
}

/// A status with its innermost cause, which is where the system's words are.
pub(super) fn words(status: &Status) -> String {
    let cause = std::error::Error::source(status).map(innermost);
    match cause {
        Some(cause) if !status.message().contains(&cause) => format!("{} ({cause})", status.message()),
        _ => status.message().to_string(),
    }
}

/// Text of the innermost cause.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// How the end of a job is known here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AbortReason {
    pub kind: AbortKind,
    pub message: String,
    /// Rank of the worker to blame.
    pub culprit: Option<u32>,
    /// Who saves, by host and local index, where the coordinator names one.
    pub saver: Option<(String, u32)>,
}

impl From<v1::Abort> for AbortReason {
    fn from(abort: v1::Abort) -> Self {
        let kind = abort.kind();
        let v1::Abort { message, culprit, saver, .. } = abort;
        Self { kind, message, culprit, saver: saver.map(|s| (s.host, s.local_index)) }
    }
}

impl AbortReason {
    /// The end of the job, where a refused call tells of one.
    pub(super) fn told_by(status: &Status) -> Option<Self> {
        let kind = match refusal(status) {
            "ended" => AbortKind::WorkerFailed,
            "ended-configuration" => AbortKind::Configuration,
            "ended-not-finite" => AbortKind::NotFinite,
            "ended-dropped" => AbortKind::Dropped,
            _ => return None,
        };
        // A job that outlives its workers says all of it.
        if !status.details().is_empty()
            && let Ok(abort) = v1::Abort::decode(status.details())
        {
            return Some(abort.into());
        }
        let message = status.message().trim_start_matches("the job has ended: ").to_string();
        Some(Self { kind, message, culprit: None, saver: None })
    }
}

impl From<AbortReason> for SessionError {
    fn from(reason: AbortReason) -> Self {
        let configuration = reason.kind == AbortKind::Configuration;
        SessionError::Ended { message: reason.message, configuration }
    }
}
