//! A worker whose job is over ends, whatever it hangs in.
//!
//! Collectives, the store and the loops hear of the end by themselves. A GPU that does not answer or a file system
//! that hangs cannot be interrupted: some time after the end the watchdog ends the process, with the exit code that
//! asks for another try. A checkpoint that is being saved has longer, since it is worth waiting for.

use super::EXIT_ABORTED;
use crate::{metrics, native};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a worker is doing, as far as it matters to one who has to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Building the program, reading a checkpoint, calibrating.
    Preparing,
    /// Connecting to the other ranks.
    Connecting,
    /// Steps.
    Training,
    /// Evaluating.
    Evaluating,
    /// Writing a checkpoint.
    Saving,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Preparing => "preparing the run",
            Phase::Connecting => "connecting to the other ranks",
            Phase::Training => "in a training step",
            Phase::Evaluating => "evaluating",
            Phase::Saving => "saving a checkpoint",
        })
    }
}

/// How long a worker may still take once its job is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// To leave whatever it is doing.
    pub react: Duration,
    /// To leave a step or a preparation, where steps have been seen that take long: twice the longest one, at most this.
    pub work: Duration,
    /// To finish saving, counted from the end of the job or from the beginning of the save, whichever is later.
    pub save: Duration,
}

impl Limits {
    /// 8 s (up to 40 s where steps are long), and 20 s to finish a save: at most 28 s, or 60 s, from the end of the job to
    /// that of the process.
    pub const WORKER: Self =
        Self { react: Duration::from_secs(8), work: Duration::from_secs(40), save: Duration::from_secs(20) };

    /// To leave a step, of which the longest so far took `longest`.
    fn step(&self, longest: Duration) -> Duration {
        self.react.max(longest.saturating_mul(2).min(self.work))
    }

    /// From the end of the job to the end of the process, at most.
    pub fn total(&self) -> Duration {
        self.react.max(self.work) + self.save
    }
}

/// What the watchdog does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Looks again after this time.
    Wait(Duration),
    /// Ends the process, for this reason.
    End(String),
}

/// Decides about a worker whose job has been over for `over`, that has been in `phase` for `in_phase`, and whose longest
/// step took `longest`.
pub fn decide(
    over: Duration,
    phase: Phase,
    in_phase: Duration,
    longest: Duration,
    limits: &Limits,
) -> Decision {
    let step = limits.step(longest);
    let limit = match phase {
        Phase::Saving => limits.save,
        Phase::Connecting => limits.react,
        Phase::Preparing | Phase::Training | Phase::Evaluating => step,
    };
    let used = over.min(in_phase);
    let left = limit.saturating_sub(used).min((step + limits.save).saturating_sub(over));
    if !left.is_zero() {
        return Decision::Wait(left);
    }
    let hint = match phase {
        Phase::Saving => "a file system that hangs, or is too slow for the checkpoint",
        Phase::Connecting => "a library that does not come back",
        _ => "a GPU or a file system that hangs, or a step that takes very long",
    };
    Decision::End(format!(
        "the job has been over for {} s and this worker is still {phase}: {hint}; ended by its watchdog",
        over.as_secs()
    ))
}

/// What this process is doing, and since when; none before anything was said.
static DOING: Mutex<Option<(Phase, Instant)>> = Mutex::new(None);

/// The longest step so far, in milliseconds.
static LONGEST: AtomicU64 = AtomicU64::new(0);

/// Notes how long a step took: one that is under way when the job ends may take as long again.
pub fn took(step: Duration) {
    LONGEST.fetch_max(u64::try_from(step.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

fn now_doing() -> MutexGuard<'static, Option<(Phase, Instant)>> {
    // A plain value: a thread that panicked left it whole.
    DOING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this process is doing.
pub fn phase() -> Phase {
    now_doing().map_or(Phase::Preparing, |(phase, _)| phase)
}

/// Says what this process is doing until the answer is dropped; then it is doing again what it did before.
pub fn doing(phase: Phase) -> Doing {
    Doing { before: now_doing().replace((phase, Instant::now())) }
}

/// See [`doing`].
#[must_use = "dropping it ends the phase"]
pub struct Doing {
    before: Option<(Phase, Instant)>,
}

impl Drop for Doing {
    fn drop(&mut self) {
        // Begun anew: the time in between was spent on something else.
        *now_doing() = self.before.map(|(phase, _)| (phase, Instant::now()));
    }
}

/// Watches this process from now on: once its job is over it ends within `limits`, by itself or by [`EXIT_ABORTED`].
/// `over` waits at most as long as it is told, and says whether the job is over.
pub fn watch(over: impl Fn(Duration) -> bool + Send + 'static, limits: Limits) -> io::Result<()> {
    let begun = Instant::now();
    let run = move || {
        while !over(Duration::from_secs(3600)) {}
        let ended = Instant::now();
        loop {
            let (phase, since) = now_doing().unwrap_or((Phase::Preparing, begun));
            let longest = Duration::from_millis(LONGEST.load(Ordering::Relaxed));
            match decide(ended.elapsed(), phase, since.elapsed(), longest, &limits) {
                // Phases change meanwhile.
                Decision::Wait(left) => std::thread::sleep(left.min(Duration::from_millis(100))),
                Decision::End(why) => {
                    // An output that hangs as well does not hold up the end.
                    metrics::last_word(format_args!("octrain: {why}"));
                    metrics::finish_within(Duration::from_secs(1));
                    native::leave(EXIT_ABORTED);
                }
            }
        }
    };
    std::thread::Builder::new().name("watchdog".into()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        react: Duration::from_secs(8),
        work: Duration::from_secs(40),
        save: Duration::from_secs(20),
    };

    fn with(longest: u64, over: u64, phase: Phase, in_phase: u64) -> Decision {
        let [over, in_phase, longest] = [over, in_phase, longest].map(Duration::from_secs);
        decide(over, phase, in_phase, longest, &LIMITS)
    }

    fn at(over: u64, phase: Phase, in_phase: u64) -> Decision {
        with(1, over, phase, in_phase)
    }

    #[test]
    fn a_step_that_takes_long_has_its_time_within_bounds() {
        let wait = |s| Decision::Wait(Duration::from_secs(s));
        assert_eq!(with(15, 8, Phase::Training, 3600), wait(22));
        assert!(matches!(with(15, 30, Phase::Training, 3600), Decision::End(_)));
        assert_eq!(with(600, 8, Phase::Training, 3600), wait(32), "40 s at most");
        assert_eq!(with(600, 8, Phase::Saving, 3600), wait(12), "a save has its own");
        assert!(matches!(with(600, 8, Phase::Connecting, 3600), Decision::End(_)));
        assert!(matches!(with(600, 60, Phase::Saving, 0), Decision::End(_)));
    }

    #[test]
    fn a_worker_gets_its_time_to_react_and_a_save_its_time_to_finish() {
        let wait = |s| Decision::Wait(Duration::from_secs(s));
        assert_eq!(at(0, Phase::Training, 3600), wait(8), "what was before the end does not count");
        assert_eq!(at(7, Phase::Training, 3600), wait(1));
        assert!(matches!(at(8, Phase::Training, 3600), Decision::End(_)));
        assert_eq!(at(8, Phase::Saving, 3600), wait(12), "a save that was under way");
        assert_eq!(at(8, Phase::Saving, 1), wait(19), "a save that was begun because of the end");
        assert!(matches!(at(20, Phase::Saving, 3600), Decision::End(_)));
        // However often the phase changes, there is an end.
        assert_eq!(at(27, Phase::Saving, 0), wait(1));
        assert!(matches!(at(28, Phase::Saving, 0), Decision::End(_)));
        assert!(matches!(at(28, Phase::Preparing, 0), Decision::End(_)));
    }

    #[test]
    fn it_says_what_the_worker_was_doing() {
        for (phase, words) in [
            (Phase::Saving, "saving a checkpoint"),
            (Phase::Connecting, "connecting"),
            (Phase::Training, "training step"),
        ] {
            let Decision::End(why) = at(30, phase, 30) else { panic!("{phase} goes on") };
            assert!(why.contains(words) && why.contains("30 s") && why.contains("watchdog"), "{why}");
        }
    }

    #[test]
    fn phases_are_nested() {
        let phase = || now_doing().map(|(phase, _)| phase);
        let outer = doing(Phase::Training);
        let inner = doing(Phase::Saving);
        assert_eq!(phase(), Some(Phase::Saving));
        drop(inner);
        assert_eq!(phase(), Some(Phase::Training));
        drop(outer);
        assert_eq!(phase(), None);
    }
}
