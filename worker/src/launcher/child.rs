//! What the system says of a worker's process, and who is told of its end.

use super::exit::End;
use super::group::{Answer, Ended, Told};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// Whether a process is stopped by a signal, by the letter behind its name in `/proc`.
pub(super) fn stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// How a process ended; a code is its own, even after the launcher had killed it.
pub(super) fn end(status: ExitStatus, killed: Option<End>) -> End {
    match (status.code(), status.signal(), killed) {
        (Some(code), _, _) => End::Code(code),
        (None, Some(libc::SIGKILL), Some(killed)) => killed,
        (None, Some(signal), _) => End::Signal(signal),
        (None, None, _) => End::Code(i32::from(super::EXIT_ERROR)),
    }
}

/// Asks whether the job goes on without a worker that has ended; none where no thread can be started for it, which is no.
pub(super) fn ask(told: &Told, ended: Ended) -> Option<Receiver<Option<Answer>>> {
    let (tell, answer) = channel();
    let told = Arc::clone(told);
    let started = std::thread::Builder::new().name("ended".into()).spawn(move || {
        // A launcher that is gone needs no answer.
        let _ = tell.send(told(&ended));
    });
    match started {
        Ok(_) => Some(answer),
        Err(e) => {
            tracing::warn!("the coordinator is not told of a worker's end: no thread for it ({e})");
            None
        }
    }
}
