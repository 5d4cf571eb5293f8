//! What shows a coordinator that a process is of its job.

use super::Tls;
use octrain_coordinator::token::JobToken;

/// What shows a coordinator that a process is of its job; by default nothing, as for a coordinator that lets in whoever is on its
/// machine.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The job's token.
    pub token: Option<JobToken>,
    /// This side's certificates, with which connections are by TLS.
    pub tls: Option<Tls>,
}
