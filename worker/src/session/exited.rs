//! A launcher's word to the coordinator that one of its workers is dead.

use super::connect::{endpoint, found};
use super::connection::Client;
use super::error::{innermost, words};
use super::{SessionError, machine};
use octrain_proto::PROTOCOL_VERSION;
use octrain_proto::v1::{ExitedRequest, JobPhase, StatusRequest};
use std::time::Duration;
use tonic::{Response, Status};

/// Longest wait for the coordinator: it is there, or the job is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker that has ended, and whom to tell.
#[derive(Clone)]
pub struct Exited {
    /// `HOST:PORT` of the coordinator.
    pub coordinator: String,
    /// Name of the job.
    pub job_id: String,
    /// Generation the launcher was started for; 0: whichever is current.
    pub generation: u64,
    /// Index among the workers of this host.
    pub local_index: u32,
    /// Its process.
    pub pid: u32,
    /// How it ended, e.g. `was killed by signal 9`.
    pub status: String,
    /// What it registered with; nobody else knows it.
    pub token: String,
}

/// Tells the coordinator that a worker of this host has ended otherwise than well; whether the job goes on without it.
pub fn exited(who: &Exited) -> Result<bool, SessionError> {
    let request = ExitedRequest {
        job_id: who.job_id.clone(),
        generation: who.generation,
        host: machine::host_name(),
        local_index: who.local_index,
        pid: who.pid,
        status: who.status.clone(),
        token: who.token.clone(),
    };
    let told = async |mut client: Client| client.exited(request.clone()).await;
    Ok(ask(&who.coordinator, told)?.goes_on)
}

/// Steps that the furthest worker of a job has done.
pub fn furthest(coordinator: &str) -> Result<u64, SessionError> {
    let status = ask(coordinator, async |mut client: Client| client.status(StatusRequest {}).await)?;
    Ok(status.members.iter().map(|m| m.step).max().unwrap_or_default())
}

/// Whether the job goes on when it loses some of its workers, which its coordinator knows from the start. None where who answers
/// has a job that is over, as one before this may, or is of another version.
pub fn survives(coordinator: &str) -> Result<Option<bool>, SessionError> {
    let status = ask(coordinator, async |mut client: Client| client.status(StatusRequest {}).await)?;
    let over = matches!(status.phase(), JobPhase::Finished | JobPhase::Failed);
    let known = status.protocol_version == PROTOCOL_VERSION && !over;
    Ok(known.then_some(status.min_workers < status.expected_workers))
}

/// One question of a process that is no worker.
fn ask<T>(
    coordinator: &str,
    call: impl AsyncFn(Client) -> Result<Response<T>, Status>,
) -> Result<T, SessionError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SessionError::Runtime)?;
    let (address, endpoint) = endpoint(coordinator)?;
    let unreachable =
        |last: String| SessionError::Unreachable { address: address.clone(), waited: PATIENCE, last };
    let told = runtime.block_on(async {
        let telling = async {
            found(&address).await?;
            let channel = endpoint.connect().await.map_err(|e| innermost(&e))?;
            call(Client::new(channel)).await.map_err(|status| words(&status))
        };
        tokio::time::timeout(PATIENCE, telling).await
    });
    match told {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(why)) => Err(unreachable(why)),
        Err(_) => Err(unreachable("no answer".into())),
    }
}
