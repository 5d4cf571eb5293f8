//! What a session is opened with.

use super::{Credentials, machine};
use octrain_coordinator::config::DEFAULT_JOB;
use octrain_proto::v1::{Capabilities, JobSpec};
use std::sync::Arc;
use std::time::Duration;

/// Options of [`super::Session::connect`].
#[derive(Clone)]
pub struct SessionOptions {
    /// `HOST:PORT` of the coordinator.
    pub coordinator: String,
    /// What shows it that this process is of the job.
    pub credentials: Credentials,
    /// Name of the job.
    pub job_id: String,
    /// Generation this worker was started for; 0: whichever is current.
    pub generation: u64,
    /// Name of this host; ranks are ordered by it.
    pub host: String,
    /// Index among the workers of this host, from 0.
    pub local_index: u32,
    /// Workers started on this host; 0: unknown.
    pub local_world: u32,
    /// What this worker's launcher says its end with ([`super::Exited`]); empty without a launcher.
    pub token: String,
    /// What is to be done; see [`super::job_spec`].
    pub job: JobSpec,
    /// What this machine can do; see [`machine::capabilities`].
    pub capabilities: Capabilities,
    /// How long the coordinator is looked for (name resolution included).
    pub connect_timeout: Duration,
    /// How long the plan is waited for; the coordinator's own register timeout is usually shorter.
    pub plan_timeout: Duration,
    /// Asked while waiting: true gives up with [`super::SessionError::Interrupted`].
    pub interrupted: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Asked all the time: true says that the stop which `interrupted` tells of is this worker's alone, and not the job's. Where that can
    /// go on without it, it leaves at the next boundary between two steps; else all stop.
    pub leaving: Arc<dyn Fn() -> bool + Send + Sync>,
    /// How long such a boundary is waited for; after that the worker leaves as if it had died.
    pub drain_timeout: Duration,
}

/// Longest wait of a worker that leaves for a boundary between two steps, where nothing is said: short of the 30 s that Kubernetes and
/// SLURM give a process to end.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

impl SessionOptions {
    /// The defaults: no credentials, this host's name, worker 0, a minute to find the coordinator, an hour for the plan.
    pub fn new(coordinator: impl Into<String>, job: JobSpec, capabilities: Capabilities) -> Self {
        Self {
            coordinator: coordinator.into(),
            credentials: Credentials::default(),
            job_id: DEFAULT_JOB.into(),
            generation: 0,
            host: machine::host_name(),
            local_index: 0,
            local_world: 0,
            token: String::new(),
            job,
            capabilities,
            connect_timeout: Duration::from_secs(60),
            plan_timeout: Duration::from_secs(3600),
            interrupted: Arc::new(|| false),
            leaving: Arc::new(|| false),
            drain_timeout: DRAIN_TIMEOUT,
        }
    }
}
