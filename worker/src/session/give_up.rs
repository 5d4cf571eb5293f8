//! Telling the coordinator, without being a member, that there is no point in waiting for this process.

use super::connection::RETRY;
use super::error::{is_transient, words};
use super::transport::Way;
use super::{Credentials, SessionError, machine};
use octrain_coordinator::limits::MAX_MESSAGE;
use octrain_coordinator::text::line;
use octrain_proto::v1::GiveUpRequest;
use std::time::{Duration, Instant};

/// Between looks for a signal.
const LISTEN: Duration = Duration::from_millis(50);

/// Who cannot be run as configured, and whom to tell.
#[derive(Debug, Clone)]
pub struct GivingUp {
    /// `HOST:PORT` of the coordinator.
    pub coordinator: String,
    /// What shows it that this process is of the job.
    pub credentials: Credentials,
    /// Name of the job.
    pub job_id: String,
    /// Generation this process was started for; 0: whichever is current.
    pub generation: u64,
    /// Index among the workers of this host; none: the launcher, for all of them.
    pub local_index: Option<u32>,
    /// Workers that a launcher speaks for; 0 where it does not know.
    pub workers: u32,
    /// Longest wait for the coordinator.
    pub patience: Duration,
}

/// Tells the coordinator why this process can never be a part of the job; that ends a job which waits for it. Gives up
/// when the coordinator refuses, when `patience` is over, and when `interrupted` says so.
pub fn give_up(who: &GivingUp, why: &str, interrupted: impl Fn() -> bool) -> Result<(), SessionError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SessionError::Runtime)?;
    runtime.block_on(async {
        let asked_to_stop = async {
            while !interrupted() {
                tokio::time::sleep(LISTEN).await;
            }
        };
        tokio::select! {
            told = tell(who, why) => told,
            () = asked_to_stop => Err(SessionError::Interrupted("the coordinator")),
        }
    })
}

async fn tell(who: &GivingUp, why: &str) -> Result<(), SessionError> {
    let way = Way::to(&who.coordinator, &who.credentials)?;
    let request = GiveUpRequest {
        job_id: who.job_id.clone(),
        generation: who.generation,
        host: machine::host_name(),
        local_index: who.local_index,
        workers: who.workers,
        pid: std::process::id(),
        message: line(why, MAX_MESSAGE),
    };
    let start = Instant::now();
    loop {
        let attempt = async { Ok::<_, String>(way.client().await?.give_up(request.clone()).await) };
        let left = who.patience.saturating_sub(start.elapsed());
        let last = match tokio::time::timeout(left, attempt).await {
            Ok(Ok(Ok(_))) => return Ok(()),
            Ok(Ok(Err(status))) if is_transient(&status) => words(&status),
            Ok(Ok(Err(status))) => return Err(way.failed("give_up", &status)),
            Ok(Err(why)) => why,
            Err(_) => "no answer".to_string(),
        };
        way.check()?;
        if start.elapsed() + RETRY >= who.patience {
            return Err(way.unreachable(who.patience, last));
        }
        tokio::time::sleep(RETRY).await;
    }
}
