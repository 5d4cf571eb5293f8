//! The best evaluation of a run so far, the same on every rank.

use super::{EvalResult, Run};

/// The highest top-1 of a run's evaluations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Best {
    /// In percent; none before the first evaluation.
    top1: Option<f64>,
    /// The last evaluation was that one.
    is_last: bool,
}

impl Best {
    /// That of a run which goes on.
    pub fn so_far(top1: Option<f64>) -> Self {
        Self { top1, is_last: false }
    }

    /// As others are told it: top-1 by its bits, and whether the last evaluation was the best.
    pub fn bits(self) -> (Option<u64>, bool) {
        (self.top1.map(f64::to_bits), self.is_last)
    }

    /// As [`Self::bits`] told it.
    pub fn of_bits((top1, is_last): (Option<u64>, bool)) -> Self {
        Self { top1: top1.map(f64::from_bits), is_last }
    }

    /// Takes note of an evaluation; whether it is better than all before.
    pub fn improves(&mut self, top1: f64) -> bool {
        self.is_last = self.top1.is_none_or(|before| top1 > before);
        if self.is_last {
            self.top1 = Some(top1);
        }
        self.is_last
    }

    /// The best, where it was not the last.
    pub fn before_the_last(&self) -> Option<f64> {
        self.top1.filter(|_| !self.is_last)
    }
}

impl Run<'_> {
    /// Whether this epoch's evaluation, if there was one, is the best so far.
    pub(super) fn is_best(&mut self, measured: Option<&EvalResult>) -> bool {
        measured.is_some_and(|e| self.output.best.improves(e.top1))
    }

    /// Says where the best checkpoint is, where it is not the last.
    pub(super) fn say_best(&mut self) {
        if let Some(top1) = self.output.best.before_the_last() {
            let output = self.task.config.run.output_dir.display();
            self.reporter.say(&format!(
                "the best checkpoint is an earlier one, of val.top1 {top1:.2}: --from-checkpoint {output} --last-epoch-of-checkpoint best"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Best;

    #[test]
    fn only_what_is_better_than_all_before_improves() {
        let mut best = Best::default();
        assert_eq!([10.0, 10.0, 30.0, 20.0].map(|t| best.improves(t)), [true, false, true, false]);
        assert_eq!(best.before_the_last(), Some(30.0));
        let mut resumed = Best::so_far(Some(30.0));
        assert!(!resumed.improves(30.0) && resumed.improves(31.0));
        assert_eq!(resumed.before_the_last(), None);
    }
}
