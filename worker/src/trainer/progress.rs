//! How far a run is, and what of that a checkpoint holds.

use super::EvalResult;
use super::resume::Start;
use crate::checkpoint::Position;
use serde::{Deserialize, Serialize};

/// The end of an epoch's steps, or of all steps, whose evaluation and checkpoint are not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boundary {
    /// No step follows.
    pub step_limit: bool,
    /// It was evaluated, where that was due, and what is saved is decided.
    pub measured: bool,
}

/// What a checkpoint is saved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    /// It is due.
    Due,
    /// It is the best so far, and due anyhow or not.
    Best {
        /// Due anyhow.
        due: bool,
    },
}

/// A checkpoint to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saving {
    /// What for.
    pub how: How,
    /// With the last evaluation, which is of this position.
    pub evaluated: bool,
}

impl Saving {
    /// With an evaluation of this position, if there is one.
    pub fn of(how: How, eval: Option<EvalResult>) -> Self {
        Self { how, evaluated: eval.is_some() }
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub position: Position,
    /// The newest position that a checkpoint holds, or where this process began.
    pub kept: Position,
    /// The checkpoint of that position has an evaluation.
    measured: bool,
    /// A position another rank saves: it is there once that rank has taken part in a later step.
    promised: Option<Position>,
    /// What is to be saved at the position, as long as it is not known to be there.
    pub saving: Option<Saving>,
    /// The end that was reached and is not done.
    pub boundary: Option<Boundary>,
    /// The steps after which the last end was done.
    passed: Option<u64>,
    /// The checkpoint it goes on from was evaluated.
    pub evaluated: bool,
    /// What follows the last step is done.
    pub concluded: bool,
    /// It goes on from a checkpoint.
    pub resumed: bool,
    /// The steps that were done before this process.
    pub begun: u64,
}

impl Progress {
    /// Where a run starts.
    pub fn at(start: &Start) -> Self {
        Self {
            position: start.position,
            kept: start.position,
            measured: start.evaluated,
            promised: None,
            saving: None,
            boundary: None,
            passed: None,
            evaluated: start.evaluated,
            concluded: start.concluded,
            resumed: start.resumed,
            begun: start.position.global_step,
        }
    }

    /// A step is done by all ranks.
    pub fn step(&mut self) {
        self.kept = self.promised.take().unwrap_or(self.kept);
        self.saving = None;
        self.position.step_in_epoch += 1;
        self.position.global_step += 1;
    }

    /// The steps of the epoch have ended; it is complete where all `steps` are done.
    pub fn end_of_steps(&mut self, steps: u64) {
        if self.position.step_in_epoch == steps {
            self.position.epoch += 1;
            self.position.step_in_epoch = 0;
        }
    }

    /// The position is saved, with an evaluation or not, by this rank or by another.
    pub fn saved(&mut self, measured: bool, here: bool) {
        self.measured = measured;
        match here {
            true => (self.kept, self.saving) = (self.position, None),
            false => self.promised = Some(self.position),
        }
    }

    /// The end that was reached is done; whether no step follows.
    pub fn passed(&mut self) -> bool {
        self.passed = Some(self.position.global_step);
        self.boundary.take().is_some_and(|b| b.step_limit)
    }

    /// How much of what follows the last step is done: more is further.
    pub fn stage(&self) -> u32 {
        match self.boundary {
            Some(b) if b.measured => 2,
            Some(_) => 1,
            None if self.passed == Some(self.position.global_step) => 3,
            None => 0,
        }
    }

    /// After ranks were lost: `there` says whether one that is left has saved the position. Where none has, a promise is
    /// void, and what was promised is to be saved again.
    pub fn settle(&mut self, there: bool) {
        self.promised = None;
        if there {
            (self.kept, self.saving) = (self.position, None);
        }
    }

    /// Whether a checkpoint of the position with its evaluation is there: saving would add nothing to it.
    pub fn is_kept_and_measured(&self) -> bool {
        self.position == self.kept && self.measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> Progress {
        Progress::at(&Start {
            position: Position::default(),
            resumed: false,
            evaluated: false,
            concluded: false,
            from: None,
            message: String::new(),
        })
    }

    #[test]
    fn what_another_rank_saves_is_kept_once_it_has_done_a_step_after() {
        let mut p = new();
        p.step();
        p.saved(false, false);
        assert_eq!(p.kept, Position::default());
        p.step();
        assert_eq!((p.kept.global_step, p.position.global_step), (1, 2));
        p.saved(false, true);
        assert_eq!(p.kept, p.position);
    }

    #[test]
    fn what_a_lost_rank_was_to_save_is_saved_by_another_unless_it_is_there() {
        let due = Saving { how: How::Due, evaluated: false };
        for there in [false, true] {
            let mut p = new();
            p.step();
            p.saving = Some(due);
            p.saved(false, false);
            p.settle(there);
            assert_eq!(p.saving, (!there).then_some(due));
            assert_eq!(p.kept == p.position, there);
            // The promise is void: a later step makes nothing of it.
            let kept = p.kept;
            p.step();
            assert_eq!((p.kept, p.saving), (kept, None));
        }
    }

    #[test]
    fn a_rank_that_has_done_more_of_what_follows_a_step_is_further() {
        let mut p = new();
        p.step();
        let mut stages = vec![p.stage()];
        for measured in [false, true] {
            p.boundary = Some(Boundary { step_limit: false, measured });
            stages.push(p.stage());
        }
        assert!(!p.passed());
        stages.push(p.stage());
        assert_eq!(stages, [0, 1, 2, 3]);
        p.step();
        assert_eq!(p.stage(), 0);
    }

    #[test]
    fn an_evaluation_is_of_the_position_that_was_saved_with_it() {
        let mut p = new();
        p.step();
        p.end_of_steps(1);
        assert_eq!((p.position.epoch, p.position.step_in_epoch, p.position.global_step), (1, 0, 1));
        assert!(!p.is_kept_and_measured());
        p.saved(true, true);
        assert!(p.is_kept_and_measured());
        p.step();
        p.end_of_steps(2);
        assert_eq!((p.position.epoch, p.position.step_in_epoch), (1, 1));
        assert!(!p.is_kept_and_measured());
        p.saved(false, true);
        assert!(!p.is_kept_and_measured());
    }
}
