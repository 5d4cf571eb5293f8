//! Worker processes of one host: spawn, logs, signals, exit codes, root cause.
//!
//! The launcher starts workers of this binary, each in a process group of its own, relays what they print,
//! passes a first SIGINT or SIGTERM on and kills at the second, and says whose end came first. A worker calls
//! [`follow_launcher`] first of all, so that none is left behind when the launcher is killed.

mod exit;
mod follow;
mod group;
pub mod logging;
mod relay;
pub mod signals;
#[cfg(test)]
mod tests;

pub use exit::{End, Report, WorkerExit, verdict};
pub use follow::{FollowError, follow_launcher};
pub use group::{Group, LaunchError, LaunchOptions, WorkerCommand, spawn};

/// Exit code of a success.
pub const EXIT_OK: u8 = 0;
/// Exit code of an error at run time.
pub const EXIT_ERROR: u8 = 1;
/// Exit code of a configuration that cannot be run: a scheduler must not try again.
pub const EXIT_CONFIGURATION: u8 = 2;
/// Exit code of a worker whose job was ended because of another worker.
pub const EXIT_ABORTED: u8 = 3;
/// Exit code after a signal, with everything saved (or, after the second one, at once).
pub const EXIT_INTERRUPTED: u8 = 130;
