//! Numbers without pattern, that a seed decides. libtorch's generator is one for all tests of a process, which run at once: a
//! test that seeded it and drew from it got other numbers when another one came between.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// libtorch's generator, seeded, and nobody else's until this is dropped. A test holds one at a time.
pub struct Draws(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Draws {
    /// From the beginning; waits for whoever draws.
    pub fn new(seed: i64) -> Self {
        // A test that failed while it drew leaves nothing behind: the seed is set anew.
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        tch::manual_seed(seed);
        Self(alone)
    }

    /// FP32 numbers of the standard normal distribution.
    pub fn normal(&mut self, shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    /// FP32 numbers from 0 to below 1.
    pub fn uniform(&mut self, shape: &[i64]) -> Tensor {
        Tensor::rand(shape, (Kind::Float, Device::Cpu))
    }

    /// `n` labels, 64-bit integers from 0 to below `classes`.
    pub fn labels(&mut self, classes: usize, n: usize) -> Tensor {
        Tensor::randint(classes as i64, [n as i64], (Kind::Int64, Device::Cpu))
    }
}
