//! The schedule of quantization-aware training: calibrate, train with observers on, freeze observers, freeze
//! BatchNorm's statistics. Pure functions of the step.

use crate::config::Observer;

/// What a step does besides its update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Quantizers observe and move their ranges.
    pub observe: bool,
    /// BatchNorm normalises with batch statistics and moves the running ones.
    pub batch_stats: bool,
}

/// When observers and BatchNorm freeze, and how ranges move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QatSchedule {
    /// Images of the calibration before the first step.
    pub calibration_images: usize,
    /// Images from which BatchNorm's statistics are estimated anew when they freeze; 0: they stay as trained.
    pub bn_images: usize,
    /// How ranges are found and kept.
    pub observer: Observer,
    /// Percent of absolute values within the range, for [`Observer::Percentile`].
    pub percentile: f64,
    /// `range = m * range + (1 - m) * observed`.
    pub observer_momentum: f64,
    /// Ranges are learned by gradient (LSQ), from where calibration puts them.
    pub learn_scales: bool,
    /// First step with frozen observers.
    pub freeze_observers_step: u64,
    /// First step with frozen BatchNorm statistics.
    pub freeze_bn_step: u64,
}

/// The step from which a part of the schedule is frozen: `ceil(part * total)`; never for a part of 1.
pub fn freeze_step(part: f64, total_steps: u64) -> u64 {
    if part >= 1.0 { u64::MAX } else { (part * total_steps as f64).ceil() as u64 }
}

impl QatSchedule {
    /// What step `step` does.
    pub fn phase(&self, step: u64) -> Phase {
        Phase { observe: step < self.freeze_observers_step, batch_stats: step < self.freeze_bn_step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_freeze_before_batch_norm() {
        let s = QatSchedule {
            calibration_images: 512,
            bn_images: 0,
            observer: Observer::MovingAverage,
            percentile: 99.99,
            observer_momentum: 0.9,
            learn_scales: false,
            freeze_observers_step: freeze_step(0.8, 100),
            freeze_bn_step: freeze_step(0.9, 100),
        };
        assert_eq!(s.phase(79), Phase { observe: true, batch_stats: true });
        assert_eq!(s.phase(80), Phase { observe: false, batch_stats: true });
        assert_eq!(s.phase(90), Phase { observe: false, batch_stats: false });
        assert_eq!(freeze_step(1.0, 100), u64::MAX);
        assert_eq!(freeze_step(0.0, 100), 0);
    }
}
