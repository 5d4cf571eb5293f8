//! A launcher's word to the coordinator that one of its workers is dead.

use super::ask::ask;
use super::connection::RETRY;
use super::transport::Client;
use super::{Credentials, SessionError, machine};
use octrain_proto::v1::{ExitedRequest, Vacancy};
use std::time::{Duration, Instant};

/// A worker that has ended, and whom to tell.
#[derive(Clone)]
pub struct Exited {
    /// `HOST:PORT` of the coordinator.
    pub coordinator: String,
    /// What shows it that this process is of the job.
    pub credentials: Credentials,
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

/// Tells the coordinator that a worker of this host has ended otherwise than well; whether the job goes on without it, and what becomes
/// of its place. One that
/// does not answer and may be started anew is asked again for as long as `absence` says.
pub fn exited(who: &Exited, absence: Option<Duration>) -> Result<(bool, Vacancy), SessionError> {
    let request = ExitedRequest {
        job_id: who.job_id.clone(),
        generation: who.generation,
        host: machine::host_name(),
        local_index: who.local_index,
        pid: who.pid,
        status: who.status.clone(),
        token: who.token.clone(),
    };
    let begun = Instant::now();
    loop {
        let told = async |mut client: Client| client.exited(request.clone()).await;
        match ask(&who.coordinator, &who.credentials, "exited", told) {
            Err(SessionError::Unreachable { .. } | SessionError::Lost { .. })
                if absence.is_some_and(|absence| begun.elapsed() < absence) =>
            {
                std::thread::sleep(RETRY);
            }
            answer => {
                let answer = answer?;
                return Ok((answer.goes_on, answer.vacancy()));
            }
        }
    }
}
