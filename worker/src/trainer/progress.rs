//! How far a run is, and what of that a checkpoint holds.

use super::resume::Start;
use crate::checkpoint::Position;

/// Where a run stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Progress {
    pub position: Position,
    /// The newest position that a checkpoint holds, or where this process began.
    pub kept: Position,
    /// The checkpoint of that position has an evaluation.
    measured: bool,
    /// A position another rank saves: it is there once that rank has taken part in a later step.
    promised: Option<Position>,
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
            evaluated: start.evaluated,
            concluded: start.concluded,
            resumed: start.resumed,
            begun: start.position.global_step,
        }
    }

    /// A step is done by all ranks.
    pub fn step(&mut self) {
        self.kept = self.promised.take().unwrap_or(self.kept);
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
            true => self.kept = self.position,
            false => self.promised = Some(self.position),
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
