//! What is left out at random. A microbatch has a key, which follows from seed, step and its place in the global batch; with
//! the node's place in the graph it seeds libtorch's generator before each draw. So what is drawn is the same on any number
//! of workers, and in a resumed run.

use super::super::ExecError;
use super::{Call, Forward};
use crate::graph::{Dropout, StochasticDepth};
use tch::Tensor;

/// `x * mask / (1 - p)` with a mask of `shape`, 1 with probability `1 - p`; `x` where nothing is drawn.
fn thinned(call: &Call, p: f32, shape: &[i64]) -> Result<Tensor, ExecError> {
    let x = call.x();
    let Some(key) = call.draw().filter(|_| p > 0.0) else { return Ok(x.shallow_clone()) };
    let kept = 1.0 - f64::from(p);
    tch::manual_seed(key);
    let mask = Tensor::f_full(shape, kept, (x.kind(), x.device()))?.f_bernoulli()?.f_div_scalar(kept)?;
    Ok(x.f_mul(&mask)?)
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
