//! A worker's side: it does not outlive its launcher.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Environment variable of what a worker registers with, so that its launcher, which drew it, may say its end.
pub const WORKER_TOKEN: &str = "OCTRAIN_WORKER_TOKEN";
/// Environment variable that names the launcher's process.
pub(super) const LAUNCHER_PID: &str = "OCTRAIN_LAUNCHER_PID";

/// Why a worker cannot follow its launcher.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// It died between starting this process and now.
    #[error("the launcher (pid {pid}) is gone, so this worker ends as well")]
    Gone {
        /// The launcher.
        pid: i32,
    },
    /// The variable is nonsense.
    #[error("{LAUNCHER_PID} is `{0}`, not a process id; unset it when starting a worker by hand")]
    NotAPid(String),
    /// The system refuses.
    #[error("the system does not let this worker die with its launcher: {0}")]
    System(rustix::io::Errno),
}

/// Asks the kernel to kill this process when the launcher's main thread ends, however that happens. Does nothing
/// in a process no launcher has started. To be called first of all.
pub fn follow_launcher() -> Result<(), FollowError> {
    let Ok(text) = std::env::var(LAUNCHER_PID) else { return Ok(()) };
    let pid: i32 = text.parse().map_err(|_| FollowError::NotAPid(text))?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(FollowError::System)?;
    // It may have died before the request was in place; then this process has another parent by now.
    match getppid() {
        Some(parent) if parent.as_raw_nonzero().get() == pid => Ok(()),
        _ => Err(FollowError::Gone { pid }),
    }
}
