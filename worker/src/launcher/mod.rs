//! Worker processes of one host: spawn, logs, signals, exit codes, root cause.
//!
//! The launcher starts workers of this binary, each in a process group of its own, relays what they print,
//! passes a first signal to stop on and kills at the second, starts another one for one that died while its job goes on, and says
//! whose end came first. A worker calls
//! [`follow_launcher`] first of all, so that none is left behind when the launcher is killed.

mod child;
mod crowd;
mod exit;
mod follow;
mod group;
pub mod logging;
mod relay;
mod restarts;
pub mod signals;
#[cfg(test)]
mod tests;
pub mod watchdog;

pub use crowd::{Crowd, crowd};
pub use exit::{End, Report, WorkerExit, verdict};
pub use follow::{FollowError, WORKER_TOKEN, follow_launcher};
pub use group::{Answer, Ended, Group, LaunchError, LaunchOptions, Replace, Told, WorkerCommand, spawn};
use octrain_coordinator::exit_code;
pub use octrain_coordinator::exit_code::{
    EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_PREEMPTED,
};
pub use restarts::{Decision, GIVEN_BACK, Restarts, Vacancy};
