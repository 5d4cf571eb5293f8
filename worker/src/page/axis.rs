//! From values to places on a picture.

/// Where values lie between two ends of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Axis {
    /// A linear axis over finite `low <= high`, drawn from `from` to `to`; equal ends are moved apart.
    pub(super) fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        // Halves, so that the whole range of f64 has a finite width.
        let width = high / 2.0 - low / 2.0;
        let high = if width > 0.0 && width.is_normal() { high } else { low + low.abs().max(1.0) };
        Self { low, high, log: false, from, to }
    }

    /// A logarithmic axis over whole decades around positive `low <= high`.
    pub(super) fn log(low: f64, high: f64, from: f64, to: f64) -> Self {
        let low = low.log10().floor();
        let high = high.log10().ceil().max(low + 1.0);
        Self { low, high, log: true, from, to }
    }

    /// Whether the axis can show a value.
    pub(super) fn shows(&self, x: f64) -> bool {
        x.is_finite() && (!self.log || x > 0.0)
    }

    /// Place of a value that [`Axis::shows`] allows, never beyond the ends.
    pub(super) fn at(&self, x: f64) -> f64 {
        let x = if self.log { x.log10() } else { x };
        let share = (x / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0);
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values to label, about `count` of them.
    pub(super) fn ticks(&self, count: usize) -> Vec<f64> {
        if self.log {
            let decades = (self.high - self.low) as usize;
            let every = decades.div_ceil(count.max(1)).max(1);
            return (0..=decades).step_by(every).map(|d| 10f64.powf(self.low + d as f64)).collect();
        }
        let raw = (self.high / 2.0 - self.low / 2.0) * 2.0 / count.max(1) as f64;
        let unit = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * unit).find(|&s| s >= raw * 0.999);
        let step = step.unwrap_or(raw);
        if !step.is_normal() {
            return vec![self.low, self.high];
        }
        let first = (self.low / step).ceil();
        let ticks = (0..=2 * count).map(|i| (first + i as f64) * step);
        ticks.take_while(|&t| t <= self.high + step * 1e-6).map(|t| t + 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_places_stay_inside() {
        let a = Axis::linear(0.0, 47.0, 100.0, 200.0);
        assert_eq!(a.ticks(5), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(
            [a.at(0.0), a.at(23.5), a.at(47.0), a.at(1e9), a.at(-1.0)],
            [100.0, 150.0, 200.0, 200.0, 100.0]
        );
        let l = Axis::log(0.02, 300.0, 0.0, 50.0);
        assert_eq!(l.ticks(9), [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert!((l.at(1.0) - 20.0).abs() < 1e-9);
        assert!(!l.shows(0.0) && !l.shows(f64::NAN) && l.shows(1e-9));
    }

    #[test]
    fn any_finite_ends_make_an_axis() {
        for (low, high) in
            [(0.0, 0.0), (5.0, 5.0), (-3.0, -3.0), (f64::MIN, f64::MAX), (0.0, 1e-310), (0.0, 1e-300)]
        {
            let a = Axis::linear(low, high, 0.0, 10.0);
            for x in [low, high, 0.0].into_iter().chain(a.ticks(4)) {
                assert!((0.0..=10.0).contains(&a.at(x)), "{low}..{high}: {x} is at {}", a.at(x));
            }
            assert!(a.ticks(4).len() < 12);
        }
    }
}
