//! How fast a worker is, beside others.

use std::time::Duration;

/// Part of a new window in what is known of a worker.
const SHARE: f64 = 0.5;
/// Times the median above which one is slow, and below which it ceases to be.
const SLOW: f64 = 1.5;
const RECOVERED: f64 = 1.2;
/// What is below this, in seconds of a step, nobody notices; and below the other one, nobody notices any more.
const LEAST: f64 = 0.01;
const LITTLE: f64 = 0.005;

/// What is known of one worker's speed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Speed {
    /// Steps, and microseconds that they took it, at the beginning of the window; none before it has said them in this generation.
    pub(crate) from: Option<(u64, u64)>,
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
        let from = self.from.unwrap_or((steps, own_us));
        let (steps, own_us) = (steps.saturating_sub(from.0), own_us.saturating_sub(from.1));
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

/// What a worker is by two times of its own beside the median of all: by microbatch, and by step. One that has fewer microbatches takes
/// longer for each where a step has parts that do not grow with them, and is waited for by nobody: it has to be slow by both.
pub(crate) fn verdict(by_microbatch: (f64, f64), by_step: (f64, f64)) -> Verdict {
    let above = |times: f64, seconds: f64| {
        let ((each, each_median), (own, own_median)) = (by_microbatch, by_step);
        each > times * each_median && own > times * own_median && own - own_median > seconds
    };
    match () {
        () if above(SLOW, LEAST) => Verdict::Slow,
        () if above(RECOVERED, LITTLE) => Verdict::Between,
        () => Verdict::Well,
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
        let of_one = |own: f64, median: f64| verdict((own, median), (own, median));
        assert_eq!(of_one(0.151, 0.1), Verdict::Slow);
        assert_eq!(of_one(0.149, 0.1), Verdict::Between);
        assert_eq!(of_one(0.121, 0.1), Verdict::Between);
        assert_eq!(of_one(0.119, 0.1), Verdict::Well);
        // A few milliseconds a step are nothing, unless it has many microbatches.
        assert_eq!(of_one(0.004, 0.001), Verdict::Well);
        assert_eq!(of_one(0.008, 0.001), Verdict::Between);
        assert_eq!(verdict((0.004, 0.001), (0.016, 0.004)), Verdict::Slow);
    }

    #[test]
    fn one_that_has_fewer_microbatches_and_is_done_first_is_not_slow() {
        // 100 ms a step and 25 ms a microbatch, of which it has one and the others two.
        assert_eq!(verdict((0.125, 0.075), (0.125, 0.15)), Verdict::Well);
        // The others wait for one that has more of them, and for each no longer than they do: the shares do that.
        assert_eq!(verdict((0.1, 0.1), (0.2, 0.1)), Verdict::Well);
    }
}
