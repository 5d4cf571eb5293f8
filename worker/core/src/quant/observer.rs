//! Ranges of activations as pure functions on plain numbers, so that every rank that holds the same maxima (or
//! counts) holds the same ranges to the last bit.

use super::histogram::Histogram;
use super::scheme::Scheme;
use crate::strategy::{Observer, Qat};

/// A tensor held NaN or infinity where a range was to be observed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "activation `{tensor}` holds {count} NaN or infinite values: before the first step look at the weights the run starts from, later lower the learning rate"
)]
pub struct NonFinite {
    /// Name of the quantizer.
    pub tensor: String,
    /// How many values, over all microbatches and ranks.
    pub count: u64,
}

/// How activation ranges are found and kept: pure functions of what all ranks have seen, so that every rank finds the same
/// range to the last bit.
pub trait RangeObserver: Send + Sync {
    /// Whether calibration needs histograms besides maxima.
    fn wants_histogram(&self) -> bool;

    /// Whether ranges rest where calibration puts them: [`Self::moved`] is then never asked.
    fn holds(&self) -> bool {
        false
    }

    /// The start of a range, finite and not negative, of values that are quantized by `scheme`, from the absolute maxima of
    /// all calibration microbatches, in the order of the sampler (at least one); `histogram`, over all of them, may be asked
    /// for once, where it is wanted.
    fn calibrated(&self, scheme: Scheme, maxima: &[f32], histogram: &mut dyn FnMut() -> Histogram) -> f32;

    /// Where a range goes in training from the absolute maximum that a step observed; finite and not negative.
    fn moved(&self, range: f32, observed: f32) -> f32;
}

/// The observer that a recipe names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecipeObserver {
    /// Which.
    pub observer: Observer,
    /// Percent of absolute values within the range, for [`Observer::Percentile`].
    pub percentile: f64,
    /// Momentum of [`Observer::MovingAverage`].
    pub momentum: f64,
}

impl From<&Qat> for RecipeObserver {
    fn from(qat: &Qat) -> Self {
        Self { observer: qat.observer, percentile: qat.percentile, momentum: qat.observer_momentum }
    }
}

impl RangeObserver for RecipeObserver {
    fn wants_histogram(&self) -> bool {
        self.observer.holds_ranges()
    }

    fn holds(&self) -> bool {
        self.observer.holds_ranges()
    }

    fn calibrated(&self, scheme: Scheme, maxima: &[f32], histogram: &mut dyn FnMut() -> Histogram) -> f32 {
        match self.observer {
            Observer::MovingAverage => {
                let sum: f64 = maxima.iter().map(|&x| f64::from(x)).sum();
                (sum / maxima.len() as f64) as f32
            }
            Observer::Max => maxima.iter().copied().fold(0.0, f32::max),
            Observer::Percentile => histogram().percentile(self.percentile),
            Observer::Mse => histogram().least_squares(scheme),
            Observer::Entropy => histogram().least_entropy(scheme),
        }
    }

    /// The moving average is `m * range + (1 - m) * observed`, in FP64, rounded to FP32.
    fn moved(&self, range: f32, observed: f32) -> f32 {
        let m = self.momentum;
        match self.observer {
            Observer::MovingAverage => (m * f64::from(range) + (1.0 - m) * f64::from(observed)) as f32,
            Observer::Max => range.max(observed),
            Observer::Percentile | Observer::Mse | Observer::Entropy => range,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scheme::Sign;
    use super::*;

    const SIGNED: Scheme = Scheme::activation(Sign::Signed);
    const UNSIGNED: Scheme = Scheme::activation(Sign::Unsigned);

    fn of(observer: Observer) -> RecipeObserver {
        RecipeObserver { observer, ..RecipeObserver::from(&Qat { percentile: 75.0, ..Qat::default() }) }
    }

    #[test]
    fn maxima_are_averaged_or_the_largest_taken() {
        let start =
            |o, maxima: &[f32]| of(o).calibrated(SIGNED, maxima, &mut || unreachable!("maxima suffice"));
        assert_eq!(start(Observer::MovingAverage, &[1.0, 2.0, 6.0]), 3.0);
        assert_eq!(start(Observer::MovingAverage, &[f32::MAX, f32::MAX]), f32::MAX);
        assert_eq!(start(Observer::Max, &[1.0, 6.0, 2.0]), 6.0);
        assert!(!of(Observer::MovingAverage).wants_histogram() && !of(Observer::Max).wants_histogram());
    }

    #[test]
    fn an_observer_moves_ranges_unless_it_says_that_it_holds_them() {
        struct Fixed;
        impl RangeObserver for Fixed {
            fn wants_histogram(&self) -> bool {
                false
            }
            fn calibrated(&self, _: Scheme, _: &[f32], _: &mut dyn FnMut() -> Histogram) -> f32 {
                1.0
            }
            fn moved(&self, _: f32, observed: f32) -> f32 {
                observed
            }
        }
        assert!(!Fixed.holds());
        for &observer in Observer::ALL {
            assert_eq!(of(observer).holds(), observer.holds_ranges());
            assert_eq!(of(observer).wants_histogram(), observer.holds_ranges());
        }
        let held = Observer::ALL.iter().filter(|o| o.holds_ranges()).count();
        assert_eq!((held, of(Observer::Max).percentile, of(Observer::Max).momentum), (3, 75.0, 0.9));
    }

    #[test]
    fn each_observer_moves_in_its_own_way() {
        assert_eq!(of(Observer::MovingAverage).moved(1.0, 2.0), 1.1);
        assert_eq!(of(Observer::MovingAverage).moved(2.0, 5.0), 2.3);
        let still = RecipeObserver { momentum: 1.0, ..of(Observer::MovingAverage) };
        assert_eq!(still.moved(1.0, 5.0), 1.0);
        assert_eq!(of(Observer::Max).moved(1.0, 2.0), 2.0);
        assert_eq!(of(Observer::Max).moved(3.0, 2.0), 3.0);
        let x = [0.5f32, 1.0, 2.0, 100.0];
        let h = || Histogram::of(&x, 100.0);
        for (held, scheme, want) in [
            (Observer::Percentile, SIGNED, h().percentile(75.0)),
            (Observer::Mse, SIGNED, h().least_squares(SIGNED)),
            (Observer::Mse, UNSIGNED, h().least_squares(UNSIGNED)),
            (Observer::Entropy, UNSIGNED, h().least_entropy(UNSIGNED)),
        ] {
            assert!(of(held).wants_histogram());
            assert_eq!(of(held).moved(1.0, 2.0), 1.0);
            assert_eq!(of(held).calibrated(scheme, &[100.0], &mut || h()), want);
            assert!(want > 0.0 && want <= 100.0);
        }
    }
}
