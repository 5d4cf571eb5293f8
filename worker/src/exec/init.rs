//! Initialisation: weights from the distributions that their graph names, the rest by kind. Each parameter draws from a stream of
//! its own, keyed by its name.

use super::weights::Slot;
use super::{ExecError, Weights};
use crate::data::rng::CounterRng;
use crate::graph::{Distribution, ParamKind};
use tch::Tensor;

/// Every branch is nearly left out at first (Liu et al., arXiv 2201.03545).
const LAYER_SCALE: f64 = 1e-6;
/// Standard deviation of embeddings (Dosovitskiy et al., arXiv 2010.11929).
const EMBEDDING: f64 = 0.02;

/// 64-bit FNV-1a: a stable key of a name.
fn key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Values of a parameter.
fn drawn(slot: &Slot, seed: u64, distribution: Distribution) -> Result<Tensor, ExecError> {
    let mut rng = CounterRng::new(seed, [key(&slot.name), 0]);
    let values: Vec<f32> = match distribution {
        Distribution::Normal(deviation) => (0..slot.len).map(|_| rng.normal() * deviation as f32).collect(),
        Distribution::Uniform(bound) => {
            (0..slot.len).map(|_| (2.0 * rng.uniform() - 1.0) * bound as f32).collect()
        }
    };
    Ok(Tensor::f_from_slice(&values)?.f_view(slot.shape.as_slice())?)
}

/// Fills all trainable parameters and running statistics from `seed`. With `zero_gamma` the last BatchNorm of
/// every residual branch starts at 0, so that blocks start as the identity.
pub fn initialise(weights: &mut Weights, seed: u64, zero_gamma: bool) -> Result<(), ExecError> {
    for (slot, view) in weights.layout.trainable.iter().zip(weights.trainable()) {
        let mut view = view;
        match slot.kind {
            ParamKind::ConvWeight | ParamKind::LinearWeight => {
                let distribution = slot.initializer.distribution(slot.kind, &slot.shape);
                view.f_copy_(&drawn(slot, seed, distribution)?)?;
            }
            ParamKind::ResidualGamma if zero_gamma => drop(view.f_fill_(0.0)?),
            ParamKind::Gamma | ParamKind::ResidualGamma => drop(view.f_fill_(1.0)?),
            ParamKind::Bias | ParamKind::Beta => drop(view.f_fill_(0.0)?),
            ParamKind::LayerScale => drop(view.f_fill_(LAYER_SCALE)?),
            ParamKind::Embedding => {
                view.f_copy_(&drawn(slot, seed, Distribution::Normal(EMBEDDING))?)?;
            }
            ParamKind::RunningMean | ParamKind::RunningVar => unreachable!("buffers are not trainable"),
        }
    }
    weights.reset_statistics()
}
