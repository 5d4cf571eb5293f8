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
    /// A position another rank saves, with an evaluation or not: it is there once that rank has taken part in a later step.
    promised: Option<(Position, bool)>,
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

    /// What another rank was to save is there: it has taken part in what followed that.
    pub fn promise_kept(&mut self) {
        (self.kept, self.measured) = self.promised.take().unwrap_or((self.kept, self.measured));
        self.saving = None;
    }

    /// A step is done by all ranks.
    pub fn step(&mut self) {
        self.promise_kept();
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
        match here {
            true => (self.kept, self.measured, self.saving) = (self.position, measured, None),
            false => self.promised = Some((self.position, measured)),
        }
    }

    /// What this rank knows to be saved.
    pub fn saved_here(&self) -> (Position, bool) {
        (self.kept, self.measured)
    }

    /// Whether a checkpoint is all that is to be saved at the position: one without the evaluation that it is to have is not.
    pub fn is_met_by(&self, (kept, measured): (Position, bool)) -> bool {
        kept == self.position && (measured || !self.saving.is_some_and(|s| s.evaluated))
    }

    /// The end of the steps was reached by the last one, and is not done: a generation may be over between the two, so that it
    /// follows from what was done and not from what was about to come. An epoch has so many `steps`; `limit`: none follows.
    pub fn reach_end(&mut self, steps: u64, limit: bool) {
        let here = self.position.global_step;
        let undone = self.boundary.is_none() && self.passed != Some(here) && here > self.begun;
        if undone && (limit || (steps > 0 && self.position.step_in_epoch == steps)) {
            self.end_of_steps(steps);
            self.boundary = Some(Boundary { step_limit: limit, measured: false });
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
            self.measured = self.saving.map_or(self.measured, |s| s.evaluated);
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
    fn a_checkpoint_without_the_evaluation_that_is_due_is_not_what_is_to_be_saved() {
        // A run that goes on from its last step, saved by a signal before it was evaluated.
        let position = Position { epoch: 2, step_in_epoch: 0, global_step: 10 };
        let mut p = new();
        (p.position, p.kept) = (position, position);
        assert!(p.is_met_by(p.saved_here()), "nothing is to be saved");
        p.saving = Some(Saving { how: How::Due, evaluated: true });
        p.saved(true, false);
        assert!(!p.is_met_by(p.saved_here()), "the promise is not kept yet");
        p.settle(p.is_met_by(p.saved_here()));
        assert!(p.saving.is_some(), "it is saved again");
        p.saved(true, true);
        assert!(p.is_met_by(p.saved_here()) && p.is_kept_and_measured());
        p.saving = Some(Saving { how: How::Due, evaluated: true });
        assert!(!p.is_met_by((Position::default(), true)), "of another step");
        // What one that wrote it says is there, all know to be.
        let mut other = new();
        other.position = position;
        other.saving = Some(Saving { how: How::Due, evaluated: true });
        other.settle(true);
        assert!(other.is_kept_and_measured());
    }

    #[test]
    fn the_last_step_has_its_end_whatever_came_between() {
        let done = |steps: u64| {
            let mut p = new();
            (0..steps).for_each(|_| p.step());
            p
        };
        let mut p = done(4);
        p.reach_end(5, false);
        assert_eq!(p.boundary, None);
        // By the epoch, by a limit within it, and by both.
        for (steps, limit, epoch) in [(4, false, 1), (5, true, 0), (4, true, 1)] {
            let mut p = done(4);
            p.reach_end(steps, limit);
            assert_eq!(p.boundary, Some(Boundary { step_limit: limit, measured: false }), "{steps}");
            assert_eq!(p.position.epoch, epoch);
            assert_eq!(p.passed(), limit);
            // It is done once.
            p.reach_end(steps, limit);
            assert_eq!(p.boundary, None);
        }
        // What another process has ended is not this one's to end.
        let mut p = new();
        (p.position.global_step, p.begun) = (4, 4);
        p.reach_end(5, true);
        assert_eq!(p.boundary, None);
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
