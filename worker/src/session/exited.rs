//! A launcher's word to the coordinator that one of its workers is dead.

use super::connect::{endpoint, found};
use super::connection::Client;
use super::error::{innermost, words};
use super::{SessionError, machine};
use octrain_proto::v1::ExitedRequest;
use std::time::Duration;

/// Longest wait for the coordinator: it is there, or the job is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker that has ended, and whom to tell.
#[derive(Debug, Clone)]
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
}

/// Tells the coordinator that a worker of this host has ended otherwise than well; whether the job goes on without it.
pub fn exited(who: &Exited) -> Result<bool, SessionError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SessionError::Runtime)?;
    let (address, endpoint) = endpoint(&who.coordinator)?;
    let request = ExitedRequest {
        job_id: who.job_id.clone(),
        generation: who.generation,
        host: machine::host_name(),
        local_index: who.local_index,
        pid: who.pid,
        status: who.status.clone(),
    };
    let unreachable =
        |last: String| SessionError::Unreachable { address: address.clone(), waited: PATIENCE, last };
    let told = runtime.block_on(async {
        let telling = async {
            found(&address).await?;
            let channel = endpoint.connect().await.map_err(|e| innermost(&e))?;
            Client::new(channel).exited(request).await.map_err(|status| words(&status))
        };
        tokio::time::timeout(PATIENCE, telling).await
    });
    match told {
        Ok(Ok(reply)) => Ok(reply.into_inner().goes_on),
        Ok(Err(why)) => Err(unreachable(why)),
        Err(_) => Err(unreachable("no answer".into())),
    }
}
