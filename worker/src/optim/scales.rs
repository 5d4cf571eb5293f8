//! Learned scales: those of activation quantizers as parameters of their own (LSQ, Esser et al., arXiv
//! 1902.08153), updated by the same rule and learning rate as the weights, without decay.

use super::rule::{Update, UpdateRule};
use crate::quant::scheme::MIN_SCALE;
use tch::{TchError, Tensor};

/// Updates ranges (`qmax` scales each) in place from gradients of the scales. In one update a scale loses at most half of
/// itself, so that it stays above zero. `update` has the ranges for weights; all are `[quantizers]`, FP32.
pub fn update(rule: &dyn UpdateRule, qmax: &Tensor, update: Update) -> Result<(), TchError> {
    let ranges = update.weights;
    let _guard = tch::no_grad_guard();
    let scales = ranges.f_div(qmax)?.f_clamp_min(f64::from(MIN_SCALE))?;
    let floor = scales.f_mul_scalar(0.5)?.f_clamp_min(f64::from(MIN_SCALE))?;
    let moved = Tensor::f_zeros_like(&scales)?;
    moved.shallow_clone().f_copy_(&scales)?;
    rule.update(Update { weights: &moved, decayed: &[], ..update })?;
    ranges.shallow_clone().f_copy_(&moved.f_maximum(&floor)?.f_mul(qmax)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::{Decayed, Sgd};

    #[test]
    fn scales_follow_their_gradient_and_never_reach_zero() {
        let rule = Sgd { momentum: 0.0, ..Sgd::default() };
        let ranges = Tensor::from_slice(&[127.0f32, 127.0, 0.0]);
        let (qmax, momenta) = (Tensor::from_slice(&[127.0f32; 3]), [Tensor::zeros_like(&ranges)]);
        let gradients = Tensor::from_slice(&[0.5f32, 1e9, 1.0]);
        let (weights, buffers, gradients) = (&ranges, &momenta[..], &gradients);
        let decayed = &[Decayed { offset: 0, len: 3, rate: 1.0 }];
        update(&rule, &qmax, Update { weights, buffers, gradients, decayed, lr: 0.1, count: 1 }).unwrap();
        let got = Vec::<f32>::try_from(&ranges).unwrap();
        assert!((got[0] - 127.0 * 0.95).abs() < 1e-4, "{got:?}");
        assert_eq!(got[1], 63.5);
        assert!(got[2] > 0.0 && got[2] < 1e-20);
    }
}
