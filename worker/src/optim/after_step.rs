//! What ranks do once a step is done.

/// What a rank asks all ranks to do after a step; they add it up with the gradients, so that all do the same after the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum AfterStep {
    /// The next step.
    #[default]
    GoOn,
    /// Leave this group of ranks for another one, with equal state.
    Regroup,
    /// Stop, with equal state.
    Stop,
}

/// More than there are ranks; what all of them give in sum is exact in FP32, as far as it is looked at.
const STOP: f64 = 65_536.0;

impl AfterStep {
    /// What one rank gives.
    pub(super) fn weight(self) -> f64 {
        match self {
            AfterStep::GoOn => 0.0,
            AfterStep::Regroup => 1.0,
            AfterStep::Stop => STOP,
        }
    }

    /// The most that any rank has asked for, of what all gave.
    pub(super) fn of_sum(sum: f64) -> Self {
        match sum {
            s if s >= STOP => AfterStep::Stop,
            s if s > 0.0 => AfterStep::Regroup,
            _ => AfterStep::GoOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AfterStep::{self, GoOn, Regroup, Stop};

    #[test]
    fn the_most_that_any_rank_asks_for_is_what_all_do() {
        for ranks in [1, 2, 7, 16_384] {
            for most in [GoOn, Regroup, Stop] {
                for others in [GoOn, Regroup, Stop].into_iter().filter(|o| *o <= most) {
                    let all = (1..ranks).map(|_| others).chain([most]);
                    // As a reduction in FP32 has it.
                    let sum = all.fold(0f32, |sum, rank| sum + rank.weight() as f32);
                    assert_eq!(AfterStep::of_sum(f64::from(sum)), most, "{ranks} {others:?}");
                }
            }
        }
    }
}
