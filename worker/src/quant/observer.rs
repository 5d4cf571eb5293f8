//! Ranges of activations: moving averages of the absolute maximum, as pure functions on plain numbers, so that
//! every rank that holds the same maxima holds the same ranges to the last bit.

/// A tensor held NaN or infinity where a range was to be observed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "activation `{tensor}` holds {count} NaN or infinite values; lower --lr, or find the first such layer with `octrain debug`"
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

/// The start of a range: the mean of the maxima of all calibration microbatches, in the order of the sampler,
/// hence the same for every world size. `None` without any.
pub fn calibrated(maxima: &[f32]) -> Option<f32> {
    let sum: f64 = maxima.iter().map(|&x| f64::from(x)).sum();
    (!maxima.is_empty()).then(|| (sum / maxima.len() as f64) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages() {
        assert_eq!(moving_average(1.0, 2.0, 0.9), 1.1);
        assert_eq!(moving_average(1.0, 5.0, 1.0), 1.0);
        assert_eq!(calibrated(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(calibrated(&[]), None);
        assert_eq!(calibrated(&[f32::MAX, f32::MAX]), Some(f32::MAX));
    }
}
