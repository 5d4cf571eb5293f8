//! Signal to quantization noise.

/// Sums of squares of a signal and of what quantization changed in it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sqnr {
    /// Sum of the squared values in floating point.
    pub signal: f64,
    /// Sum of the squared differences.
    pub noise: f64,
}

impl Sqnr {
    /// Adds more of the same signal.
    pub fn add(&mut self, other: Sqnr) {
        self.signal += other.signal;
        self.noise += other.noise;
    }

    /// `10 log10(signal / noise)` in dB: infinite without noise, minus infinity with noise but no signal.
    pub fn db(&self) -> f64 {
        if self.noise == 0.0 { f64::INFINITY } else { 10.0 * (self.signal / self.noise).log10() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decibels() {
        let mut s = Sqnr { signal: 60.0, noise: 0.5 };
        s.add(Sqnr { signal: 40.0, noise: 0.5 });
        assert!((s.db() - 20.0).abs() < 1e-12);
        assert_eq!(Sqnr::default().db(), f64::INFINITY);
        assert_eq!(Sqnr { signal: 0.0, noise: 1.0 }.db(), f64::NEG_INFINITY);
    }
}
