//! The coordinator client: register, heartbeat, plan, abort.
//!
//! What is of the worker's membership (its connection, heartbeats, the plan) lives as long as the [`Session`]; what is of
//! one [`Generation`] (rank, roster, store, the token that ends its waits) is replaced by [`Session::attach`].
//!
//! A [`Session`] owns a small background runtime that sends heartbeats and listens for the end of the job, however
//! busy the training thread is. Its methods block, each with a deadline.

mod ask;
mod attach;
mod background;
mod connect;
mod connection;
mod credentials;
mod departure;
mod error;
mod exited;
mod fence;
mod generation;
mod give_up;
pub mod machine;
pub mod network;
mod options;
pub mod panics;
mod secured;
mod store;
#[cfg(test)]
mod tests;
mod transport;
mod whereabouts;

pub use ask::{Course, course, furthest, goes_on_without, resize, status};
pub use credentials::Credentials;
pub use error::SessionError;
pub use exited::{Exited, exited};
pub use generation::Generation;
pub use give_up::{GivingUp, give_up};
pub use octrain_coordinator::spec::spec as job_spec;
pub use octrain_coordinator::tls::{TlsError, TlsFiles};
pub use octrain_coordinator::token::{JOB_TOKEN, JobToken, TokenError};
pub use octrain_proto::v1::{
    AbortKind, Activity, Backend, BuildPlan, Capabilities, CudaDevice, Determinism, FailureKind, Fp32Math,
    JobPhase, JobSpec, LossScaling, LossScalingMode, MemberStatus, ModelFacts, Notice, NoticeKind,
    PassDecision, PastGeneration, Placement, QatRecipe, Setting, Standing, StatusReply, StepReport, Vacancy,
    WorkerFacts,
};
pub use options::{DRAIN_TIMEOUT, SessionOptions};
pub use secured::Tls;
pub use store::CoordinatorStore;
pub use whereabouts::Loading;

use crate::collective::{Abort, RendezvousStore};
use crate::launcher::{EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_PREEMPTED};
use background::Shared;
use connection::{ANSWER, Connection};
use error::AbortReason;
use octrain_proto::v1::LeaveRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest wait of a worker that fails for a coordinator that may come back: its launcher ends it soon after a minute, and it may
/// have something to save.
const LAST_WORD: Duration = Duration::from_secs(40);

/// This worker's membership in a job.
pub struct Session {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    plan: BuildPlan,
    rhythm: background::Rhythm,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    own: generation::Own,
    /// The coordinator was told that this worker cannot go on.
    reported: AtomicBool,
    /// Though it was to be told, it has not heard it.
    unheard: AtomicBool,
    /// Whether this process was asked to stop.
    interrupted: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (job, now) = (&self.plan.job_id, self.generation());
        let (number, rank, world) = (now.number(), now.rank(), now.world_size());
        write!(f, "Session(job {job}, generation {number}, rank {rank} of {world})")
    }
}

impl Session {
    /// Finds the coordinator, registers, waits for all workers and returns with the plan; heartbeats have begun.
    /// Protocol version, configuration and plan hash are checked.
    pub fn connect(options: SessionOptions) -> Result<Session, SessionError> {
        connect::connect(options)
    }

    /// The plan, which holds for the run: passes and settings with their reasons.
    pub fn plan(&self) -> &BuildPlan {
        &self.plan
    }

    /// The current generation, or the one that is over as long as no other was [attached](Self::attach) to.
    pub fn generation(&self) -> Arc<Generation> {
        self.shared.current()
    }

    /// Says that this worker is connected to the others of the current generation.
    pub fn connected(&self) {
        self.shared.current().connect();
    }

    /// The store in which collectives of the current generation meet.
    pub fn store(&self) -> Arc<dyn RendezvousStore> {
        Arc::new(CoordinatorStore::new(self.connection.clone(), self.shared.clone(), self.generation()))
    }

    /// Tells the coordinator of a finished step. Never blocks; when steps are faster than the connection, the
    /// newest one is told.
    pub fn report_step(&self, step: u64, metrics: StepReport) {
        self.shared.step.fetch_max(step, Ordering::Relaxed);
        let arrival = self.shared.current().arrival();
        self.shared.report.send_replace(Some(StepReport { step, arrival, ..metrics }));
    }

    /// Why the coordinator ended the job, naming the culprit; none while it goes on.
    pub fn abort_reason(&self) -> Option<String> {
        self.shared.abort().map(|a| a.message)
    }

    /// The kind of the end: [`AbortKind::Configuration`] means that trying again will not help,
    /// [`AbortKind::NotFinite`] that nothing is worth saving.
    pub fn abort_kind(&self) -> Option<AbortKind> {
        self.shared.abort().map(|a| a.kind)
    }

    /// Waits for the coordinator to end the job, at most `timeout`. After a failed collective, this is how to
    /// learn the root cause.
    pub fn wait_abort(&self, timeout: Duration) -> Option<String> {
        self.shared.wait_abort(timeout).map(|a| a.message)
    }

    /// The token that trips once the job is over; [`Session::abort_reason`] says why from then on. That of a generation is
    /// [`Generation::abort`].
    pub fn abort(&self) -> &Abort {
        &self.shared.token
    }

    /// Tells the coordinator why this worker cannot go on, which ends the job; the first word counts, later ones are not
    /// sent. A failed collective ([`FailureKind::Communication`]) is mostly the echo of another worker's end, so the
    /// coordinator waits up to its heartbeat timeout for the root cause before it blames this worker, which it never does
    /// where that only waited for others ([`FailureKind::Waited`]). Whoever may hang
    /// while it cleans up reports first.
    pub fn report_failure(&self, message: &str, kind: FailureKind) {
        if !self.reported.swap(true, Ordering::SeqCst) {
            let (generation, patience) = (self.generation().number(), self.rhythm.hearing().min(LAST_WORD));
            let over = || self.shared.abort().is_some();
            let told = self.connection.report_failure(generation, message, kind, patience, over);
            self.unheard.store(!told, Ordering::SeqCst);
        }
    }

    /// Reports an error that may be another worker's fault, if it was not reported, waits for the coordinator's verdict (at most three
    /// heartbeat timeouts; where it may be one that was started anew, as long as that waits for whoever it has not heard), and tells
    /// the rank to blame, where the verdict names one.
    pub fn blame(&self, message: &str, kind: FailureKind) -> Option<u32> {
        self.verdict(message, kind).and_then(|v| v.culprit)
    }

    fn verdict(&self, message: &str, kind: FailureKind) -> Option<AbortReason> {
        if self.shared.abort().is_none() {
            self.report_failure(message, kind);
        }
        // Of what it has not heard it will say nothing.
        let unheard = self.unheard.load(Ordering::SeqCst);
        self.shared.wait_abort(if unheard { Duration::ZERO } else { self.rhythm.verdict() })
    }

    /// Ends this worker's part in the job after an error: reports it, if that was not done, waits for the coordinator's verdict (as
    /// [`Session::blame`] does), and tells what to print and to exit with. An error that another worker caused
    /// becomes that worker's; one that was asked to stop, in a job that a stop ended, has stopped as it was asked.
    pub fn conclude(self, message: &str, kind: FailureKind) -> Conclusion {
        let verdict = self.verdict(message, kind);
        conclusion(message, kind, verdict, self.generation().rank(), (self.interrupted)())
    }

    /// Leaves: this worker is done. What is done stays done when nobody hears of it any more.
    pub fn leave(self) {
        self.goodbye(false, false);
    }

    /// Leaves because it was asked to (a signal), after saving.
    pub fn leave_interrupted(self) {
        self.goodbye(true, false);
    }

    /// Says good-bye; `before_plan`: the others, who may have theirs, would wait for this one.
    fn goodbye(self, interrupted: bool, before_plan: bool) {
        self.shared.leaving.store(true, Ordering::SeqCst);
        let c = &self.connection;
        let header = Some(c.header_of(self.generation().number()));
        let request = LeaveRequest { header, interrupted, before_plan };
        // A coordinator that comes back is to know that this worker is done, and not lost.
        let patience = if interrupted || before_plan { ANSWER } else { self.rhythm.hearing() };
        let told = c
            .call("leave", Instant::now() + patience, async |mut client| client.leave(request.clone()).await);
        if let Err(e) = told {
            tracing::warn!("the coordinator did not hear that this worker leaves: {e}");
        }
    }
}

/// How a worker ends after an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    /// What to print.
    pub message: String,
    /// Exit code: 1 an error of this worker or of the training, 2 a configuration that cannot be run, 3 another process's
    /// doing, 4 asked to stop.
    pub code: u8,
}

fn conclusion(
    message: &str,
    kind: FailureKind,
    verdict: Option<AbortReason>,
    rank: u32,
    asked: bool,
) -> Conclusion {
    let own = match kind {
        FailureKind::Configuration => EXIT_CONFIGURATION,
        FailureKind::External => EXIT_ABORTED,
        // Whose failure it was nobody says, as the coordinator is away; to start again helps.
        FailureKind::Communication | FailureKind::Waited if verdict.is_none() => EXIT_ABORTED,
        _ => EXIT_ERROR,
    };
    match verdict {
        // The same failure of all ranks, which this one has found as well.
        Some(v)
            if matches!(
                (v.kind, kind),
                (AbortKind::NotFinite, FailureKind::NotFinite) | (AbortKind::External, FailureKind::External)
            ) =>
        {
            Conclusion { code: own, message: message.into() }
        }
        // What ended this one's call is another process, whoever is blamed: the others waited for it, or did not hear it,
        // until they gave it up (a file system that hung, a process that was stopped), and now it goes on. To start again helps.
        Some(v)
            if matches!(v.kind, AbortKind::WorkerLost | AbortKind::Dropped)
                && v.culprit == Some(rank)
                && matches!(kind, FailureKind::Communication | FailureKind::Waited) =>
        {
            Conclusion { code: EXIT_ABORTED, message: format!("the job was ended: {}", v.message) }
        }
        Some(v) if v.culprit != Some(rank) => Conclusion {
            code: match v.kind {
                AbortKind::Configuration => EXIT_CONFIGURATION,
                AbortKind::NotFinite => EXIT_ERROR,
                AbortKind::Shutdown | AbortKind::Dropped if asked => EXIT_PREEMPTED,
                _ => EXIT_ABORTED,
            },
            message: format!("the job was ended: {}", v.message),
        },
        _ => Conclusion { code: own, message: message.into() },
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.leaving.store(true, Ordering::SeqCst);
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
