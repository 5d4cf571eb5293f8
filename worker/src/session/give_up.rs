//! Telling the coordinator, without being a member, that there is no point in waiting for this process.

use super::connect::{endpoint, found};
use super::connection::{Client, RETRY};
use super::error::{innermost, is_transient, words};
use super::fence::Fenced;
use super::{SessionError, machine};
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
    let (address, endpoint) = endpoint(&who.coordinator)?;
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
        let attempt = async {
            found(&address).await?;
            let channel = endpoint.connect().await.map_err(|e| innermost(&e))?;
            Ok::<_, String>(Client::new(Fenced::new(channel)).give_up(request.clone()).await)
        };
        let left = who.patience.saturating_sub(start.elapsed());
        let last = match tokio::time::timeout(left, attempt).await {
            Ok(Ok(Ok(_))) => return Ok(()),
            Ok(Ok(Err(status))) if is_transient(&status) => words(&status),
            Ok(Ok(Err(status))) => return Err(SessionError::of_status(&address, "give_up", &status)),
            Ok(Err(why)) => why,
            Err(_) => "no answer".to_string(),
        };
        if start.elapsed() + RETRY >= who.patience {
            return Err(SessionError::Unreachable { address, waited: who.patience, last });
        }
        tokio::time::sleep(RETRY).await;
    }
}
