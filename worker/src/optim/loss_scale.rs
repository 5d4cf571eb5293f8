//! Loss scaling for FP16: a pure state machine, equal on all ranks because it sees reduced gradients only.
//!
//! ```text
//! Dynamic: finite step -> good += 1; at `interval` good steps scale *= 2, good = 0
//!          overflow    -> the step is skipped, scale /= 2 (not below 1), good = 0
//! ```

use serde::{Deserialize, Serialize};

/// Good steps before the scale is doubled.
pub const INTERVAL: u32 = 1000;
/// Largest scale.
pub const MAX_SCALE: f64 = 65536.0 * 65536.0;

/// How the loss is scaled, and the state of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossScale {
    /// Not at all.
    Off,
    /// By a constant.
    Static(f64),
    /// By a factor that follows overflows.
    Dynamic {
        /// The factor.
        scale: f64,
        /// Finite steps since it last changed.
        good: u32,
    },
}

impl LossScale {
    /// The factor.
    pub fn factor(self) -> f64 {
        match self {
            LossScale::Off => 1.0,
            LossScale::Static(scale) | LossScale::Dynamic { scale, .. } => scale,
        }
    }

    /// The state after a step whose reduced gradients were all finite or not.
    pub fn next(self, finite: bool) -> LossScale {
        match (self, finite) {
            (LossScale::Dynamic { scale, good }, true) if good + 1 >= INTERVAL => {
                LossScale::Dynamic { scale: (scale * 2.0).min(MAX_SCALE), good: 0 }
            }
            (LossScale::Dynamic { scale, good }, true) => LossScale::Dynamic { scale, good: good + 1 },
            (LossScale::Dynamic { scale, .. }, false) => {
                LossScale::Dynamic { scale: (scale / 2.0).max(1.0), good: 0 }
            }
            (other, _) => other,
        }
    }

    /// Whether a step with non-finite gradients may simply be skipped.
    pub fn may_skip(self) -> bool {
        match self {
            LossScale::Off => false,
            LossScale::Static(_) => true,
            LossScale::Dynamic { scale, .. } => scale > 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_after_the_interval_and_halves_on_overflow() {
        let mut s = LossScale::Dynamic { scale: 128.0, good: 0 };
        for _ in 0..INTERVAL {
            assert_eq!(s.factor(), 128.0);
            s = s.next(true);
        }
        assert_eq!(s, LossScale::Dynamic { scale: 256.0, good: 0 });
        assert_eq!(s.next(true).next(false), LossScale::Dynamic { scale: 128.0, good: 0 });
        let floor = LossScale::Dynamic { scale: 1.0, good: 3 };
        assert_eq!(floor.next(false).factor(), 1.0);
        assert!(!floor.may_skip() && s.may_skip());
        assert_eq!(LossScale::Static(8.0).next(false), LossScale::Static(8.0));
    }
}
