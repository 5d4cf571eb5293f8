//! Whether a worker that died is replaced: a pure function of how it ended and of what was spent.

use super::exit::{End, Kind};
use super::{EXIT_ABORTED, EXIT_ERROR};
use signal_hook::consts::{SIGXCPU, SIGXFSZ};

/// Steps of the job after which a restart counts no more.
pub const GIVEN_BACK: u64 = 1000;

/// The restarts of one launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarts {
    /// How many count at a time.
    max: u32,
    /// How far the job was, for each that was spent.
    spent: Vec<u64>,
    /// How far it is known to have come.
    furthest: u64,
}

/// What becomes of the place of a worker that the job goes on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Another one is started there; so many count now, of those there may be.
    Replace {
        /// With this one.
        spent: u32,
        /// At most.
        max: u32,
    },
    /// Another one would end the same way, as far as its end tells, or it was asked to.
    WouldEndAlike,
    /// As many as may be were started, of late.
    Spent {
        /// So many.
        max: u32,
    },
}

/// What becomes of the place of a worker that has left as fewer were wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Vacancy {
    /// It has not left so.
    #[default]
    None,
    /// Another one may be wanted there later.
    Waits,
    /// One is wanted now, which is no restart.
    Recalled,
}

impl Restarts {
    /// At most `max` at a time; a restart counts until the job is [`GIVEN_BACK`] steps further.
    pub fn new(max: u32) -> Self {
        Self { max, spent: Vec::new(), furthest: 0 }
    }

    /// What becomes of the place of a worker that ended so when the job was at `step`; 0 where that is not known.
    pub fn decide(&mut self, end: End, step: u64) -> Decision {
        if !may_help(end) {
            return Decision::WouldEndAlike;
        }
        self.furthest = self.furthest.max(step);
        let step = self.furthest;
        self.spent.retain(|at| at.saturating_add(GIVEN_BACK) > step);
        if self.spent.len() >= self.max as usize {
            return Decision::Spent { max: self.max };
        }
        self.spent.push(step);
        Decision::Replace { spent: self.spent.len() as u32, max: self.max }
    }
}

/// Whether another one may do better: after a crash, or where the exit code says that trying again may help. Not where
/// settings or memory do not suffice, a limit of the user's was reached, or it was asked to end.
fn may_help(end: End) -> bool {
    match end {
        End::Signal(SIGXCPU | SIGXFSZ) => false,
        End::Signal(_) => end.kind() == Kind::Crash,
        End::Code(code) => [EXIT_ERROR, EXIT_ABORTED].map(i32::from).contains(&code),
        End::Silent | End::Killed => false,
    }
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Decision::Replace { spent, max } => {
                write!(f, "another one takes its place (restart {spent} of {max})")
            }
            Decision::WouldEndAlike => {
                write!(f, "it is not replaced, as another one would end alike, or as it was asked to end")
            }
            Decision::Spent { max: 0 } => write!(f, "it is not replaced (--max-restarts 0)"),
            Decision::Spent { max } => write!(
                f,
                "it is not replaced: all of --max-restarts {max} were used within the last {GIVEN_BACK} steps"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_spent_and_given_back_with_progress() {
        let mut restarts = Restarts::new(2);
        let killed = End::Signal(9);
        assert_eq!(restarts.decide(killed, 5), Decision::Replace { spent: 1, max: 2 });
        assert_eq!(restarts.decide(killed, 5), Decision::Replace { spent: 2, max: 2 });
        assert_eq!(restarts.decide(killed, 5), Decision::Spent { max: 2 });
        assert_eq!(restarts.decide(killed, 4 + GIVEN_BACK), Decision::Spent { max: 2 });
        // Both of them.
        assert_eq!(restarts.decide(killed, 5 + GIVEN_BACK), Decision::Replace { spent: 1, max: 2 });
        // One whose step is not known, or behind, gives none back.
        assert_eq!(restarts.decide(killed, 0), Decision::Replace { spent: 2, max: 2 });
        assert_eq!(restarts.decide(killed, 0), Decision::Spent { max: 2 });
        // Nor is it given back by the next one whose step is known: it was spent no sooner than all that was seen.
        assert_eq!(restarts.decide(killed, 6 + GIVEN_BACK), Decision::Spent { max: 2 });
        assert_eq!(Restarts::new(0).decide(killed, 9), Decision::Spent { max: 0 });
        assert_eq!(Restarts::new(1).decide(killed, u64::MAX), Decision::Replace { spent: 1, max: 1 });
    }

    #[test]
    fn only_those_are_replaced_whose_end_another_one_may_not_meet_and_others_cost_nothing() {
        let mut restarts = Restarts::new(1);
        for end in [2, 4, 130, 0].map(End::Code).into_iter().chain([1, 2, 15, 24, 25].map(End::Signal)) {
            assert_eq!(restarts.decide(end, 0), Decision::WouldEndAlike, "{end}");
        }
        for end in [End::Silent, End::Killed] {
            assert_eq!(restarts.decide(end, 0), Decision::WouldEndAlike, "{end}");
        }
        for end in
            [End::Code(1), End::Code(3), End::Signal(6), End::Signal(7), End::Signal(9), End::Signal(11)]
        {
            assert!(matches!(Restarts::new(1).decide(end, 0), Decision::Replace { .. }), "{end}");
        }
    }
}
