//! Learning-rate schedules: pure functions of the step.

use crate::config::LrScheduler;

/// The learning rate of every step.
pub trait LearningRate: Send {
    /// Learning rate of a step (0-based).
    fn at(&self, step: u64) -> f64;

    /// Steps in all, which parts of a recipe's schedule are parts of; 0: not known.
    fn total_steps(&self) -> u64;
}

/// Linear warm-up, then cosine or constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Kind after warm-up.
    pub kind: LrScheduler,
    /// Peak.
    pub lr: f64,
    /// Value at step 0 of warm-up.
    pub warmup_start_lr: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// Steps in all.
    pub total_steps: u64,
}

impl Schedule {
    /// `lr` throughout, for a training whose length is not known.
    pub fn constant(lr: f64) -> Self {
        Self { kind: LrScheduler::Constant, lr, warmup_start_lr: lr, warmup_steps: 0, total_steps: 0 }
    }
}

impl LearningRate for Schedule {
    fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// `start + (lr - start) * step / warmup` in warm-up, then
    /// `lr / 2 * (1 + cos(pi * t / T))` with `t` counted from the end of warm-up. At and beyond the end: 0 for
    /// cosine.
    fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            let part = step as f64 / self.warmup_steps as f64;
            return self.warmup_start_lr + (self.lr - self.warmup_start_lr) * part;
        }
        match self.kind {
            LrScheduler::Constant => self.lr,
            LrScheduler::Cosine => {
                let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
                let part = ((step - self.warmup_steps) as f64 / span).min(1.0);
                0.5 * self.lr * (1.0 + (std::f64::consts::PI * part).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_meets_the_peak_and_cosine_meets_zero() {
        let s = Schedule {
            kind: LrScheduler::Cosine,
            lr: 0.4,
            warmup_start_lr: 0.1,
            warmup_steps: 10,
            total_steps: 110,
        };
        assert_eq!(s.at(0), 0.1);
        assert!((s.at(5) - 0.25).abs() < 1e-12);
        assert_eq!(s.at(10), 0.4);
        assert!((s.at(60) - 0.2).abs() < 1e-12);
        assert!(s.at(109) > 0.0 && s.at(110).abs() < 1e-12 && s.at(10_000).abs() < 1e-12);
        let c = Schedule { kind: LrScheduler::Constant, warmup_steps: 0, ..s };
        assert_eq!(c.at(0), 0.4);
        assert_eq!(c.at(1_000), 0.4);
    }
}
