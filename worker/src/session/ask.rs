//! Questions to a coordinator from processes that are no workers.

use super::transport::{Client, Way};
use super::{Credentials, SessionError};
use octrain_proto::PROTOCOL_VERSION;
use octrain_proto::v1::{JobPhase, ResizeRequest, StatusReply, StatusRequest};
use std::time::Duration;
use tonic::{Response, Status};

/// Longest wait for the coordinator: it is there, or the job is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// The status of the job at `HOST:PORT`. Any process that has the job's credentials may ask, at any time. A coordinator stays for a moment behind its job's end for
/// whoever has asked as one who is `watching`, within the last five seconds.
///
/// # Errors
/// When the address is none, when nobody answers there within 5 s, and, as [`SessionError::Ended`] or a refusal, when the job has just
/// ended.
pub fn status(
    coordinator: &str,
    credentials: &Credentials,
    watching: bool,
) -> Result<StatusReply, SessionError> {
    let request = StatusRequest { watching };
    ask(coordinator, credentials, "status", async |mut client: Client| client.status(request).await)
}

/// Steps that the furthest worker of a job has done.
pub fn furthest(coordinator: &str, credentials: &Credentials) -> Result<u64, SessionError> {
    Ok(status(coordinator, credentials, false)?.members.iter().map(|m| m.step).max().unwrap_or_default())
}

/// Says how many workers the job at `HOST:PORT` is to have; what becomes of that, for people.
///
/// # Errors
/// When the address is none, when nobody answers there within 5 s, and, as a refusal of the kind `resize`, `not-running` or `finished`, when
/// the job does not become one of so many.
pub fn resize(coordinator: &str, credentials: &Credentials, workers: u32) -> Result<String, SessionError> {
    let request = ResizeRequest { workers };
    let told =
        ask(coordinator, credentials, "resize", async |mut client: Client| client.resize(request).await);
    Ok(told?.message)
}

/// Whether a job runs, and none of those that it counts on is about to end: then it goes on without those that have left it.
pub fn goes_on_without(coordinator: &str, credentials: &Credentials) -> Result<bool, SessionError> {
    let status = status(coordinator, credentials, false)?;
    let runs = !matches!(status.phase(), JobPhase::Gathering | JobPhase::Finished | JobPhase::Failed);
    let without = status.members.iter().any(|m| m.drained || m.gone);
    Ok(runs && without && !status.members.iter().any(|m| m.left))
}

/// What a launcher has to know of its job, and its coordinator knows from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// It goes on when it loses some of its workers.
    pub survives: bool,
    /// How long it goes on without its coordinator; none where nobody could come back.
    pub absence: Option<Duration>,
}

/// How a job goes on. None where who answers has a job that is over, as one before this may, or is of another version.
pub fn course(coordinator: &str, credentials: &Credentials) -> Result<Option<Course>, SessionError> {
    let status = status(coordinator, credentials, false)?;
    let over = matches!(status.phase(), JobPhase::Finished | JobPhase::Failed);
    let known = status.protocol_version == PROTOCOL_VERSION && !over;
    let survives = status.min_workers < status.expected_workers;
    let absence = Some(Duration::from_millis(status.coordinator_timeout_ms)).filter(|t| !t.is_zero());
    Ok(known.then_some(Course { survives, absence }))
}

/// One question.
pub(super) fn ask<T>(
    coordinator: &str,
    credentials: &Credentials,
    name: &'static str,
    call: impl AsyncFn(Client) -> Result<Response<T>, Status>,
) -> Result<T, SessionError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SessionError::Runtime)?;
    let way = Way::to(coordinator, credentials)?;
    let unreachable = |last: String| way.unreachable(PATIENCE, last);
    let asking = async {
        let client = way.client().await.map_err(unreachable)?;
        call(client).await.map_err(|status| way.failed(name, &status))
    };
    let told = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
    Ok(told.unwrap_or_else(|_| Err(unreachable("no answer".into())))?.into_inner())
}
