//! How fast a worker is, beside others.

use std::time::Duration;

/// Part of a new window in what is known of a worker.
const SHARE: f64 = 0.5;
/// Times the median above which one is slow, and below which it ceases to be.
const SLOW: f64 = 1.5;
const RECOVERED: f64 = 1.2;
/// What is below this, in seconds of a step, nobody notices.
const LEAST: f64 = 0.01;

/// What is known of one worker's speed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Speed {
    /// Steps, and microseconds that they took it, at the beginning of the window.
    pub(crate) from: (u64, u64),
    /// Seconds of its own a step, smoothed over windows.
    pub(crate) own: Option<f64>,
    /// Windows in a row in which it was slow.
    pub(crate) windows: u32,
    /// Since when it is told to be slow, on the coordinator's clock.
    pub(crate) slow: Option<Duration>,
}

impl Speed {
    /// Takes in what a window says: so many steps, and microseconds that they took, since it was registered.
    pub(crate) fn window(&mut self, steps: u64, own_us: u64) {
        let (steps, own_us) = (steps.saturating_sub(self.from.0), own_us.saturating_sub(self.from.1));
        let own = own_us as f64 / 1e6 / steps.max(1) as f64;
        self.own = Some(self.own.map_or(own, |before| before + SHARE * (own - before)));
    }

    /// Seconds that a step takes it without waiting for others, where that is known.
    pub fn own_seconds(&self) -> Option<f64> {
        self.own
    }

    /// Whether it was told to be slow.
    pub fn is_slow(&self) -> bool {
        self.slow.is_some()
    }
}

/// What one window says of a worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// Much slower than most.
    Slow,
    /// Neither, which changes nothing.
    Between,
    /// As fast as most.
    Well,
}

/// The smaller one in the middle: of two, one that takes twice as long as the other is slow.
pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// What a worker is by its seconds a microbatch, of which it has so many in a step.
pub(crate) fn verdict(each: f64, median: f64, microbatches: usize) -> Verdict {
    match each {
        _ if each > SLOW * median && (each - median) * microbatches as f64 > LEAST => Verdict::Slow,
        _ if each < RECOVERED * median => Verdict::Well,
        _ => Verdict::Between,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_that_is_there_and_the_smaller_of_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![3.0, 1.0]), 1.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn between_both_bounds_nothing_changes() {
        assert_eq!(verdict(0.151, 0.1, 1), Verdict::Slow);
        assert_eq!(verdict(0.149, 0.1, 1), Verdict::Between);
        assert_eq!(verdict(0.121, 0.1, 1), Verdict::Between);
        assert_eq!(verdict(0.119, 0.1, 1), Verdict::Well);
        // A few milliseconds a step are nothing, unless it has many microbatches.
        assert_eq!(verdict(0.004, 0.001, 1), Verdict::Between);
        assert_eq!(verdict(0.004, 0.001, 4), Verdict::Slow);
    }
}
