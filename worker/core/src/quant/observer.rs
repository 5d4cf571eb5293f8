//! Ranges of activations as pure functions on plain numbers, so that every rank that holds the same maxima (or
//! counts) holds the same ranges to the last bit.

use super::histogram::Histogram;
use crate::strategy::Observer;

/// A tensor held NaN or infinity where a range was to be observed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "activation `{tensor}` holds {count} NaN or infinite values: before the first step look at the weights the run starts from, later lower --lr; `octrain debug` finds the first such layer"
)]
pub struct NonFinite {
    /// Name of the quantizer.
    pub tensor: String,
    /// How many values, over all microbatches and ranks.
    pub count: u64,
}

/// One step of the moving average: `m * range + (1 - m) * observed`, in FP32.
pub fn moving_average(range: f32, observed: f32, momentum: f64) -> f32 {
    (momentum * f64::from(range) + (1.0 - momentum) * f64::from(observed)) as f32
}

/// Where a range goes from an observed absolute maximum.
pub fn moved(observer: Observer, range: f32, observed: f32, momentum: f64) -> f32 {
    match observer {
        Observer::MovingAverage => moving_average(range, observed, momentum),
        Observer::Max => range.max(observed),
        Observer::Percentile | Observer::Mse | Observer::Entropy => range,
    }
}

/// Whether calibration needs histograms besides maxima.
pub fn wants_histogram(observer: Observer) -> bool {
    matches!(observer, Observer::Percentile | Observer::Mse | Observer::Entropy)
}

/// The start of a range from the maxima of all calibration microbatches, in the order of the sampler, hence the same
/// for every world size; `histogram` is asked for only where [`wants_histogram`]. `None` without any maximum.
pub fn calibrated(
    observer: Observer,
    percentile: f64,
    maxima: &[f32],
    histogram: impl FnOnce() -> Histogram,
) -> Option<f32> {
    if maxima.is_empty() {
        return None;
    }
    Some(match observer {
        Observer::MovingAverage => {
            let sum: f64 = maxima.iter().map(|&x| f64::from(x)).sum();
            (sum / maxima.len() as f64) as f32
        }
        Observer::Max => maxima.iter().copied().fold(0.0, f32::max),
        Observer::Percentile => histogram().percentile(percentile),
        Observer::Mse => histogram().least_squares(),
        Observer::Entropy => histogram().least_entropy(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages() {
        assert_eq!(moving_average(1.0, 2.0, 0.9), 1.1);
        assert_eq!(moving_average(1.0, 5.0, 1.0), 1.0);
        let none = || unreachable!("maxima suffice");
        let start = |o, maxima: &[f32]| calibrated(o, 99.0, maxima, none);
        assert_eq!(start(Observer::MovingAverage, &[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(start(Observer::MovingAverage, &[]), None);
        assert_eq!(start(Observer::MovingAverage, &[f32::MAX, f32::MAX]), Some(f32::MAX));
        assert_eq!(start(Observer::Max, &[1.0, 6.0, 2.0]), Some(6.0));
    }

    #[test]
    fn each_observer_moves_in_its_own_way() {
        assert_eq!(moved(Observer::MovingAverage, 1.0, 2.0, 0.9), 1.1);
        assert_eq!(moved(Observer::Max, 1.0, 2.0, 0.9), 2.0);
        assert_eq!(moved(Observer::Max, 3.0, 2.0, 0.9), 3.0);
        for held in [Observer::Percentile, Observer::Mse, Observer::Entropy] {
            assert_eq!(moved(held, 1.0, 2.0, 0.9), 1.0);
            let x = [0.5f32, 1.0, 2.0, 100.0];
            let range = calibrated(held, 75.0, &[100.0], || Histogram::of(&x, 100.0)).unwrap();
            assert!(range > 0.0 && range <= 100.0);
        }
    }
}
