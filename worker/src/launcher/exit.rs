//! Whose end was the cause of all the others: a pure function of how and in which order workers ended.

use super::{
    EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, EXIT_PREEMPTED, exit_code,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Killed by the launcher, since it did not end by itself when the others had.
    Silent,
    /// Killed by the launcher, since the user wanted it so or the time to save was over.
    Killed,
}

/// What ends have in common, from the most to the least telling when several are seen at the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Crash,
    Configuration,
    Failure,
    Silent,
    Killed,
    PeersFault,
    Interrupted,
    Preempted,
    Done,
}

impl Kind {
    /// The launcher's exit code when this is the root cause.
    fn code(self) -> u8 {
        match self {
            Kind::Crash | Kind::Failure => EXIT_ERROR,
            Kind::Configuration => EXIT_CONFIGURATION,
            Kind::Silent | Kind::PeersFault => EXIT_ABORTED,
            Kind::Killed | Kind::Interrupted => EXIT_INTERRUPTED,
            Kind::Preempted => EXIT_PREEMPTED,
            Kind::Done => EXIT_OK,
        }
    }
}

impl End {
    pub(super) fn kind(self) -> Kind {
        match self {
            // It was asked to stop before it listened: there was nothing to save yet.
            End::Signal(SIGHUP | SIGINT | SIGTERM) => Kind::Preempted,
            End::Signal(_) => Kind::Crash,
            End::Silent => Kind::Silent,
            End::Killed => Kind::Killed,
            End::Code(code) => match u8::try_from(code) {
                Ok(EXIT_OK) => Kind::Done,
                Ok(EXIT_CONFIGURATION) => Kind::Configuration,
                Ok(EXIT_ABORTED) => Kind::PeersFault,
                Ok(EXIT_PREEMPTED) => Kind::Preempted,
                Ok(EXIT_INTERRUPTED) => Kind::Interrupted,
                _ => Kind::Failure,
            },
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => {
                write!(f, "ended with exit code {code}")?;
                let meaning = u8::try_from(*code).ok().and_then(exit_code::meaning);
                meaning.map_or(Ok(()), |m| write!(f, " ({m})"))
            }
            End::Signal(n) => {
                let why = match n {
                    9 => " (SIGKILL: out of memory, or killed by hand)",
                    6 => " (SIGABRT: an assertion in native code)",
                    7 => " (SIGBUS: /dev/shm or the disk is full, or the memory is broken)",
                    11 => " (SIGSEGV: a defect in native code)",
                    15 => " (SIGTERM)",
                    24 => " (SIGXCPU: its limit of processor time, ulimit -t, is reached)",
                    25 => " (SIGXFSZ: a file reached the limit of its size, ulimit -f)",
                    _ => "",
                };
                write!(f, "was killed by signal {n}{why}")
            }
            End::Silent => write!(f, "did not end by itself and was killed by the launcher"),
            End::Killed => write!(f, "was killed by the launcher, without saving"),
        }
    }
}

/// One worker's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerExit {
    /// Its place in the launcher's list.
    pub index: usize,
    /// Its label, e.g. `rank 1`.
    pub label: String,
    /// Process id.
    pub pid: u32,
    /// How it ended.
    pub end: End,
    /// The job went on without it.
    pub outlived: bool,
    /// When it was seen, in rounds of looking: equal for those seen at the same moment.
    pub round: u64,
    /// The last lines it wrote to its standard error, oldest first (none when that went to the terminal).
    pub last_lines: Vec<String>,
}

/// How a group of workers ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// All ends, in the order they were seen.
    pub exits: Vec<WorkerExit>,
    /// The one that caused the others; none when all went well.
    pub root: Option<WorkerExit>,
    /// Exit code for the launcher.
    pub code: u8,
}

impl Report {
    /// What to tell the user: the root cause and the last lines of that worker; none when all went well.
    pub fn message(&self) -> Option<String> {
        let root = self.root.as_ref()?;
        let mut text = format!("{} (pid {}) {}", root.label, root.pid, root.end);
        let others = self
            .exits
            .iter()
            .filter(|e| e.index != root.index && e.end != End::Code(0) && !e.outlived)
            .count();
        if others > 0 {
            let plural = if others == 1 { "" } else { "s" };
            let how = if self.code == EXIT_PREEMPTED { "as well" } else { "in consequence" };
            text.push_str(&format!("; {others} other worker{plural} ended {how}"));
        }
        if self.code == EXIT_PREEMPTED {
            return Some(text);
        }
        for line in &root.last_lines {
            text.push_str(&format!("\n  {}: {line}", root.label));
        }
        // One that fell silent cannot say why it was given up; a survivor heard it from the coordinator.
        let heard = self.exits.iter().find(|e| e.end.kind() == Kind::PeersFault && !e.last_lines.is_empty());
        if root.end == End::Silent
            && let Some((survivor, line)) = heard.and_then(|e| Some((e, e.last_lines.last()?)))
        {
            text.push_str(&format!("\n  {}: {line}", survivor.label));
        }
        Some(text)
    }
}

/// Finds the root cause: the first end that is a cause of its own; of several seen at once, the most telling.
/// A worker that was killed by the launcher, says "another one ended the job" (3) or was asked to stop is a cause
/// only if there is no other. One that the job went on without is none, unless none of this launcher's was left to.
pub fn verdict(exits: Vec<WorkerExit>) -> Report {
    let own = |e: &&WorkerExit| e.end.kind() <= Kind::Failure;
    let bad = |e: &&WorkerExit| e.end.kind() < Kind::Done;
    let all_outlived = exits.iter().all(|e| e.outlived);
    let counts = |e: &&WorkerExit| all_outlived || !e.outlived;
    let root = exits
        .iter()
        .filter(counts)
        .filter(own)
        .min_by_key(|e| (e.round, e.end.kind(), e.index))
        .or_else(|| exits.iter().filter(counts).filter(bad).min_by_key(|e| (e.end.kind(), e.round, e.index)))
        .cloned();
    let code = root.as_ref().map_or(EXIT_OK, |r| r.end.kind().code());
    Report { exits, root, code }
}
