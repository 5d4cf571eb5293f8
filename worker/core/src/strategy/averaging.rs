//! An exponential moving average of a network's weights, kept beside them while they are trained.

/// How an average follows the weights that are trained, their statistics and their ranges with them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Averaging {
    /// Part of the average that stays in an update, from 0 to 1.
    pub decay: f64,
    /// Steps from one update to the next, from 1.
    pub every: u64,
    /// Steps of a warm-up, whose weights are not to be remembered: updates in it copy them, and so does the first after it.
    pub warmup: u64,
}

impl Averaging {
    /// The decay that torchvision's training script has where it is told `decay`, an update every `every` steps of
    /// `global_batch` images, and `epochs` epochs: the average then reaches back over the same part of a training, whatever
    /// these are.
    pub fn adjusted_decay(decay: f64, every: u64, global_batch: u64, epochs: u64) -> f64 {
        let adjust = global_batch as f64 * every as f64 / epochs.max(1) as f64;
        1.0 - ((1.0 - decay) * adjust).min(1.0)
    }

    /// The part of the average that stays in the update after step `step`, from 0; 0 copies the weights. None where that
    /// step is followed by no update.
    pub fn kept(&self, step: u64) -> Option<f64> {
        let every = self.every.max(1);
        if !step.is_multiple_of(every) {
            return None;
        }
        let follows_the_warmup = step.checked_sub(every).is_none_or(|before| before < self.warmup);
        Some(if follows_the_warmup { 0.0 } else { self.decay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_copy_until_the_first_after_the_warm_up() {
        let averaging = Averaging { decay: 0.9, every: 3, warmup: 5 };
        let kept: Vec<_> = (0..13).filter_map(|step| Some((step, averaging.kept(step)?))).collect();
        assert_eq!(kept, [(0, 0.0), (3, 0.0), (6, 0.0), (9, 0.9), (12, 0.9)]);
        let without = Averaging { warmup: 0, ..averaging };
        assert_eq!([0, 1, 3, 6].map(|step| without.kept(step)), [Some(0.0), None, Some(0.9), Some(0.9)]);
    }

    #[test]
    fn the_decay_is_adjusted_as_torchvision_does() {
        // 8 GPUs of 128 images, 600 epochs: alpha = 2e-5 * 8 * 128 * 32 / 600.
        let decay = Averaging::adjusted_decay(0.99998, 32, 8 * 128, 600);
        assert!((decay - (1.0 - 2e-5 * 1024.0 * 32.0 / 600.0)).abs() < 1e-12, "{decay}");
        assert_eq!(Averaging::adjusted_decay(0.5, 32, 1024, 1), 0.0);
    }
}
