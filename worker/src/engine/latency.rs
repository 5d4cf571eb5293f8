//! Throughput and latency.

use super::{Engine, EngineError};
use std::time::Instant;

/// Times of batches, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Mean.
    pub mean: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Images per second: batch size over the median time.
    pub images_per_second: f64,
}

/// The smallest value that at least `part` of the sorted values do not exceed (nearest rank).
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The median by nearest rank; none of nothing.
pub fn median(times: &[f64]) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| percentile(&sorted, 0.5))
}

impl Latency {
    /// From times of batches of `batch` images in milliseconds; none without any.
    pub fn of(times: &[f64], batch: usize) -> Option<Latency> {
        if times.is_empty() {
            return None;
        }
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Latency {
            mean: times.iter().sum::<f64>() / times.len() as f64,
            p90: percentile(&sorted, 0.90),
            p95: percentile(&sorted, 0.95),
            p99: percentile(&sorted, 0.99),
            images_per_second: batch as f64 * 1000.0 / percentile(&sorted, 0.5),
        })
    }
}

/// Runs one batch `warmup` times unmeasured, then `steps` times, at least once.
pub fn measure(
    engine: &mut dyn Engine,
    images: &[f32],
    warmup: u64,
    steps: u64,
) -> Result<Latency, EngineError> {
    for _ in 0..warmup {
        engine.infer(images)?;
    }
    let mut times = Vec::new();
    for _ in 0..steps.max(1) {
        let begun = Instant::now();
        engine.infer(images)?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(Latency::of(&times, engine.batch_size()).expect("at least one was timed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let l = Latency::of(&times, 8).unwrap();
        assert_eq!((l.mean, l.p90, l.p95, l.p99), (50.5, 90.0, 95.0, 99.0));
        assert_eq!(l.images_per_second, 160.0);
        assert_eq!(Latency::of(&[3.0], 1).unwrap().p99, 3.0);
        assert!(Latency::of(&[], 1).is_none());
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[])), (Some(2.0), None));
    }
}
