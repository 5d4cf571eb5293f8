//! What is left out at random. A microbatch has a key, which follows from seed, step and its place in the global batch; with
//! the node's place in the graph it begins a stream of numbers of its own. So what is drawn is the same on any number of
//! workers, on any device, and in a resumed run, and no generator that others use is touched.

use super::super::ExecError;
use super::{Call, Forward};
use crate::data::rng::CounterRng;
use crate::graph::{Dropout, StochasticDepth};
use tch::Tensor;

/// `count` factors: 0 with probability `p`, else `1 / (1 - p)`.
fn factors(key: [u64; 2], p: f32, count: usize) -> Vec<f32> {
    let mut rng = CounterRng::new(key[0], [key[1], 0]);
    let kept = (1.0 / (1.0 - f64::from(p))) as f32;
    (0..count).map(|_| if rng.uniform() < p { 0.0 } else { kept }).collect()
}

/// `x` times factors of `shape`; `x` where nothing is drawn.
fn thinned(call: &Call, p: f32, shape: &[i64]) -> Result<Tensor, ExecError> {
    let x = call.x();
    let Some(key) = call.draw().filter(|_| p > 0.0) else { return Ok(x.shallow_clone()) };
    let factors = factors(key, p, shape.iter().product::<i64>() as usize);
    let factors = Tensor::f_from_slice(&factors)?.f_view(shape)?;
    Ok(x.f_mul(&factors.f_to_device(x.device())?.f_to_kind(x.kind())?)?)
}

impl Forward for Dropout {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        thinned(call, self.p, &call.x().size())
    }
}

impl Forward for StochasticDepth {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let mut shape = call.x().size();
        shape.iter_mut().skip(1).for_each(|side| *side = 1);
        thinned(call, self.p, &shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_those_of_their_key_and_keep_the_mean() {
        let drawn = factors([1, 2], 0.2, 100_000);
        assert_eq!(drawn, factors([1, 2], 0.2, 100_000));
        assert!(drawn != factors([2, 2], 0.2, 100_000) && drawn != factors([1, 3], 0.2, 100_000));
        assert!(drawn.iter().all(|&f| f == 0.0 || f == 1.25));
        // The deviation of the mean of 100,000 is 0.5 / sqrt(100,000) = 0.0016.
        let mean = drawn.iter().map(|&f| f64::from(f)).sum::<f64>() / 1e5;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        let rare = factors([5, 6], 0.001, 1_000_000).into_iter().filter(|&f| f == 0.0).count();
        assert!((800..1200).contains(&rare), "{rare} of 1000");
    }
}
