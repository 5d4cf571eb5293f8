//! Whose end was the cause of all the others: a pure function of how and in which order workers ended.

use super::{EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By a signal to end from the launcher, because the others had ended or the user wanted it so.
    Killed,
}

impl End {
    /// How telling an end is when several are seen at the same moment; less is more telling.
    fn rank(self) -> u8 {
        match self {
            End::Signal(_) => 0,
            End::Code(c) if c == i32::from(EXIT_CONFIGURATION) => 1,
            End::Code(c) if c == i32::from(EXIT_OK) => 6,
            End::Code(c) if c == i32::from(EXIT_INTERRUPTED) => 4,
            End::Code(c) if c == i32::from(EXIT_ABORTED) => 3,
            End::Code(_) => 2,
            End::Killed => 5,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(f, "ended with exit code {code}"),
            End::Signal(n) => {
                let why = match n {
                    9 => " (SIGKILL: out of memory, or killed by hand)",
                    6 => " (SIGABRT: an assertion in native code)",
                    7 => " (SIGBUS: /dev/shm or the disk is full, or the memory is broken)",
                    11 => " (SIGSEGV: a defect in native code)",
                    15 => " (SIGTERM)",
                    _ => "",
                };
                write!(f, "was killed by signal {n}{why}")
            }
            End::Killed => write!(f, "was ended by the launcher"),
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
        let others = self.exits.iter().filter(|e| e.index != root.index && e.end != End::Code(0)).count();
        if others > 0 {
            text.push_str(&format!(
                "; {others} other worker{} ended in consequence",
                if others == 1 { "" } else { "s" }
            ));
        }
        for line in &root.last_lines {
            text.push_str(&format!("\n  {}: {line}", root.label));
        }
        Some(text)
    }
}

/// Finds the root cause: the first end that is a cause of its own; of several seen at once, the most telling.
/// A worker that says "another one ended the job" (3), was interrupted or was killed by the launcher is a cause
/// only if there is no other.
pub fn verdict(exits: Vec<WorkerExit>) -> Report {
    let own = |e: &&WorkerExit| e.end.rank() <= 2;
    let bad = |e: &&WorkerExit| e.end.rank() <= 5;
    let root = exits
        .iter()
        .filter(own)
        .min_by_key(|e| (e.round, e.end.rank(), e.index))
        .or_else(|| exits.iter().filter(bad).min_by_key(|e| (e.end.rank(), e.round, e.index)))
        .cloned();
    let code = match root.as_ref().map(|r| r.end) {
        None => EXIT_OK,
        Some(End::Code(code)) => u8::try_from(code).unwrap_or(EXIT_ERROR),
        Some(End::Killed) => EXIT_INTERRUPTED,
        Some(End::Signal(_)) => EXIT_ERROR,
    };
    Report { exits, root, code }
}
