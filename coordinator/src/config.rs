//! The coordinator's configuration, checked before anything binds.

use crate::ranks::Place;
use crate::text::{hostile, line};
use crate::tls::TlsFiles;
use crate::token::JobToken;
use std::path::PathBuf;
use std::time::Duration;

/// Who may speak to a coordinator.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Access {
    /// Whoever has it; without one, whoever reaches the address.
    pub token: Option<JobToken>,
    /// Whoever shows a certificate of this authority, by TLS; without it, connections are plain.
    pub tls: Option<TlsFiles>,
    /// Whether to listen without either where other machines may reach it.
    pub insecure: bool,
}

/// Settings of one coordinator.
#[derive(Debug, Clone, PartialEq)]
pub struct CoordinatorConfig {
    /// `HOST:PORT` to listen on; port 0 lets the system choose.
    pub listen: String,
    /// Who may speak to it.
    pub access: Access,
    /// Name of the job; workers that name another one are refused.
    pub job_id: String,
    /// Workers the job consists of.
    pub world_size: u32,
    /// Fewest workers the job goes on with when it loses some; the world size: it ends with any of them.
    pub min_world: u32,
    /// Most workers the job may have once it runs; the world size: it does not grow.
    pub max_world: u32,
    /// Generation of the first membership.
    pub generation: u64,
    /// Workers by place, where they are known beforehand (one host); names missing ones.
    pub expected: Vec<Place>,
    /// How often workers report that they live.
    pub heartbeat_interval: Duration,
    /// Silence after which a worker is taken for dead.
    pub heartbeat_timeout: Duration,
    /// Silence after a broken connection after which a worker is taken for dead.
    pub disconnect_grace: Duration,
    /// Time from the end of a generation until every worker that is left must have come to the next one.
    pub regroup_timeout: Duration,
    /// Time from the start until every worker must have registered.
    pub register_timeout: Duration,
    /// Time the coordinator stays after a failure, so that every worker hears of it.
    pub linger: Duration,
    /// Time the coordinator stays after a job that failed before it began, so that workers which have yet to come hear
    /// of it instead of waiting for nobody; zero where all workers are started with it.
    pub linger_for_late: Duration,
    /// Where the job's journal is kept, from which a coordinator that is started anew goes on with the job; none: the job ends
    /// with its coordinator.
    pub journal_file: Option<PathBuf>,
    /// Where a line of JSON is appended for whatever happens; none: nowhere.
    pub event_file: Option<PathBuf>,
    /// Time that workers go on without a coordinator that keeps a journal, before they save and end.
    pub coordinator_timeout: Duration,
}

/// Most workers of a job.
pub const MAX_WORKERS: u32 = 16_384;
/// Longest time that can be set.
pub const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Longest name of a job, in bytes.
const MAX_JOB_ID: usize = 256;

/// Name of a job that nobody named.
pub const DEFAULT_JOB: &str = "octrain";

impl CoordinatorConfig {
    /// The defaults for `world_size` workers.
    pub fn new(listen: impl Into<String>, world_size: u32) -> Self {
        Self {
            listen: listen.into(),
            access: Access::default(),
            job_id: DEFAULT_JOB.into(),
            world_size,
            min_world: world_size,
            max_world: world_size,
            generation: 1,
            expected: Vec::new(),
            heartbeat_interval: Duration::from_secs(1),
            heartbeat_timeout: Duration::from_secs(5),
            disconnect_grace: Duration::from_secs(2),
            regroup_timeout: Duration::from_secs(60),
            register_timeout: Duration::from_secs(300),
            linger: Duration::from_secs(5),
            linger_for_late: Duration::ZERO,
            journal_file: None,
            event_file: None,
            coordinator_timeout: Duration::from_secs(600),
        }
    }

    /// Sets the heartbeat timeout; interval and grace follow, at a fifth and two fifths of it.
    pub fn with_heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat_timeout = timeout;
        self.heartbeat_interval = timeout / 5;
        self.disconnect_grace = timeout / 5 * 2;
        self.regroup_timeout = self.regroup_timeout.max(timeout.saturating_mul(2));
        self.coordinator_timeout = self.coordinator_timeout.max(timeout.saturating_mul(2));
        self
    }

    /// The same for a job that goes on as long as it has `min_world` workers.
    pub fn with_min_world(self, min_world: u32) -> Self {
        Self { min_world, ..self }
    }

    /// The same for a job that may grow to `max_world` workers.
    pub fn with_max_world(self, max_world: u32) -> Self {
        Self { max_world, ..self }
    }

    /// Whether the job goes on when it loses a worker.
    pub fn survives(&self) -> bool {
        self.min_world < self.world_size
    }

    /// Time that workers go on without their coordinator; none where it keeps no journal, so that nobody could go on for it.
    pub fn absence(&self) -> Option<Duration> {
        self.journal_file.as_ref().map(|_| self.coordinator_timeout)
    }

    /// Calls that may wait at a time, for the plan or for keys; more are refused.
    pub fn max_waiting(&self) -> usize {
        64 + 4 * self.max_world.max(self.world_size) as usize
    }

    /// Checks what can be checked before binding.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let floor = Duration::from_millis(50);
        if self.world_size == 0 {
            return Err(ConfigError::NoWorkers);
        }
        if self.world_size > MAX_WORKERS {
            return Err(ConfigError::TooManyWorkers { world_size: self.world_size });
        }
        if self.min_world == 0 || self.min_world > self.world_size {
            return Err(ConfigError::MinWorld { min_world: self.min_world, world_size: self.world_size });
        }
        let (most, survives) = (self.max_world, self.survives());
        if most < self.world_size || most > MAX_WORKERS || (most > self.world_size && !survives) {
            return Err(ConfigError::MaxWorld { max_world: most, world_size: self.world_size });
        }
        if !self.expected.is_empty() && self.expected.len() != self.world_size as usize {
            return Err(ConfigError::Expected { named: self.expected.len(), world_size: self.world_size });
        }
        if self.job_id.trim().is_empty() {
            return Err(ConfigError::NoJobId);
        }
        if self.job_id.len() > MAX_JOB_ID || self.job_id.chars().any(hostile) {
            return Err(ConfigError::JobId { shown: line(&self.job_id, 64) });
        }
        for (flag, time) in [
            ("heartbeat-timeout", self.heartbeat_timeout),
            ("heartbeat-interval", self.heartbeat_interval),
            ("disconnect-grace", self.disconnect_grace),
            ("regroup-timeout", self.regroup_timeout),
            ("register-timeout", self.register_timeout),
            ("linger", self.linger),
            ("linger-for-late", self.linger_for_late),
            ("coordinator-timeout", self.coordinator_timeout),
        ] {
            if time > MAX_TIME {
                return Err(ConfigError::TooLong { flag, seconds: time.as_secs() });
            }
        }
        if self.generation == 0 {
            return Err(ConfigError::Generation);
        }
        if self.heartbeat_interval < floor || self.heartbeat_timeout < self.heartbeat_interval * 2 {
            return Err(ConfigError::Heartbeat {
                interval: self.heartbeat_interval,
                timeout: self.heartbeat_timeout,
            });
        }
        if self.regroup_timeout < self.heartbeat_timeout {
            return Err(ConfigError::RegroupTimeout {
                regroup: self.regroup_timeout,
                heartbeat: self.heartbeat_timeout,
            });
        }
        if self.register_timeout.is_zero() {
            return Err(ConfigError::RegisterTimeout);
        }
        if let Some(path) = self.event_file.as_ref().filter(|file| self.journal_file.as_ref() == Some(*file))
        {
            return Err(ConfigError::OneFile { path: path.clone() });
        }
        if self.absence().is_some_and(|absence| absence < self.heartbeat_timeout * 2) {
            return Err(ConfigError::CoordinatorTimeout {
                absence: self.coordinator_timeout,
                heartbeat: self.heartbeat_timeout,
            });
        }
        Ok(())
    }
}

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// World of nobody.
    #[error("--world-size is 0: a job needs at least one worker")]
    NoWorkers,
    /// World of too many.
    #[error("--world-size is {world_size}: at most {MAX_WORKERS} workers are possible")]
    TooManyWorkers {
        /// Workers wanted.
        world_size: u32,
    },
    /// A job that could not even begin, or that would go on with nobody.
    #[error(
        "--min-world is {min_world}, but the job has {world_size} workers: give from 1 to {world_size} (as many as there are: the job ends with any of them)"
    )]
    MinWorld {
        /// Fewest wanted.
        min_world: u32,
        /// Workers wanted.
        world_size: u32,
    },
    /// A job that would be larger than it may be, or could not grow while it runs.
    #[error(
        "--max-world is {max_world}, but the job begins with {world_size} workers: give from {world_size} to {MAX_WORKERS}, and a --min-world below {world_size}, without which workers neither leave nor come while the job runs"
    )]
    MaxWorld {
        /// Most wanted.
        max_world: u32,
        /// Workers wanted.
        world_size: u32,
    },
    /// A name that cannot be printed.
    #[error(
        "--job-id `{shown}` has control characters, or more than {MAX_JOB_ID} bytes: give the job a plain name"
    )]
    JobId {
        /// Its beginning, made fit to print.
        shown: String,
    },
    /// A time beyond all reason.
    #[error("--{flag} is {seconds} seconds: at most a year ({} seconds) can be waited for", MAX_TIME.as_secs())]
    TooLong {
        /// Its name.
        flag: &'static str,
        /// What it is.
        seconds: u64,
    },
    /// Named workers do not add up.
    #[error("{named} workers are named, but --world-size is {world_size}: name all or none")]
    Expected {
        /// Workers named.
        named: usize,
        /// Workers wanted.
        world_size: u32,
    },
    /// Empty job id.
    #[error("--job-id is empty: give the job a name, the same to coordinator and workers")]
    NoJobId,
    /// Generation 0.
    #[error("--generation is 0: generations count from 1")]
    Generation,
    /// Heartbeat times.
    #[error(
        "heartbeat interval {interval:?} with timeout {timeout:?}: the interval must be at least 50 ms and the timeout at least twice the interval"
    )]
    Heartbeat {
        /// Between heartbeats.
        interval: Duration,
        /// Until death.
        timeout: Duration,
    },
    /// No time to come to a new generation.
    #[error(
        "--regroup-timeout is {regroup:?}, less than --heartbeat-timeout, which is {heartbeat:?}: workers that live would be given up before those that do not"
    )]
    RegroupTimeout {
        /// From the end of a generation.
        regroup: Duration,
        /// Until death.
        heartbeat: Duration,
    },
    /// No time to register.
    #[error("--register-timeout is 0: workers need time to come up, e.g. 300")]
    RegisterTimeout,
    /// Two files that are one.
    #[error("--event-file and --journal-file are both `{}`: give each a file of its own", path.display())]
    OneFile {
        /// Where it is.
        path: PathBuf,
    },
    /// Workers would wait less for a coordinator that comes back than for one that does not.
    #[error(
        "--coordinator-timeout is {absence:?}, less than twice --heartbeat-timeout, which is {heartbeat:?}: workers wait that long for any coordinator"
    )]
    CoordinatorTimeout {
        /// Without a coordinator.
        absence: Duration,
        /// Until death.
        heartbeat: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused() {
        let good = CoordinatorConfig::new("127.0.0.1:0", 2);
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(good.clone().with_min_world(1).with_max_world(3).validate(), Ok(()));
        let place = Place { host: "a".into(), local_index: 0 };
        let cases = [
            CoordinatorConfig { world_size: 0, ..good.clone() },
            good.clone().with_min_world(0),
            good.clone().with_min_world(3),
            good.clone().with_max_world(1),
            // It has one generation.
            good.clone().with_max_world(3),
            good.clone().with_min_world(1).with_max_world(MAX_WORKERS + 1),
            CoordinatorConfig { regroup_timeout: Duration::from_secs(1), ..good.clone() },
            CoordinatorConfig { expected: vec![place], ..good.clone() },
            CoordinatorConfig { job_id: " ".into(), ..good.clone() },
            CoordinatorConfig { job_id: "a\nb".into(), ..good.clone() },
            CoordinatorConfig { job_id: "x".repeat(300), ..good.clone() },
            CoordinatorConfig::new("x", MAX_WORKERS + 1),
            CoordinatorConfig { register_timeout: Duration::MAX, ..good.clone() },
            good.clone().with_heartbeat_timeout(Duration::MAX),
            CoordinatorConfig { generation: 0, ..good.clone() },
            CoordinatorConfig { heartbeat_timeout: Duration::from_secs(1), ..good.clone() },
            CoordinatorConfig { register_timeout: Duration::ZERO, ..good.clone() },
            CoordinatorConfig {
                journal_file: Some("j".into()),
                coordinator_timeout: Duration::from_secs(9),
                ..good.clone()
            },
            CoordinatorConfig {
                journal_file: Some("j".into()),
                event_file: Some("j".into()),
                ..good.clone()
            },
        ];
        for case in cases {
            assert!(case.validate().is_err(), "{case:?}");
        }
        assert!(good.with_heartbeat_timeout(Duration::from_millis(100)).validate().is_err());
    }
}
