//! Learned scales: the steps of activation quantizers as parameters of their own (LSQ, Esser et al., arXiv
//! 1902.08153), updated by the same rule and learning rate as the weights, without decay.

use super::rule::UpdateRule;
use crate::quant::scheme::MIN_STEP;
use tch::{TchError, Tensor};

/// Updates `ranges` (`qmax` steps each) in place from gradients of the steps. In one update a step loses at most half of
/// itself, so that it stays above zero. All `[quantizers]`, FP32.
pub fn update(
    rule: &dyn UpdateRule,
    ranges: &Tensor,
    qmax: &Tensor,
    momentum: &Tensor,
    gradients: &Tensor,
    lr: f64,
) -> Result<(), TchError> {
    let _guard = tch::no_grad_guard();
    let steps = ranges.f_div(qmax)?.f_clamp_min(f64::from(MIN_STEP))?;
    let floor = steps.f_mul_scalar(0.5)?.f_clamp_min(f64::from(MIN_STEP))?;
    let moved = Tensor::f_zeros_like(&steps)?;
    moved.shallow_clone().f_copy_(&steps)?;
    rule.update(&moved, momentum, gradients, 0, lr)?;
    ranges.shallow_clone().f_copy_(&moved.f_maximum(&floor)?.f_mul(qmax)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::Sgd;

    #[test]
    fn steps_follow_their_gradient_and_never_reach_zero() {
        let rule = Sgd { momentum: 0.0, weight_decay: 1.0, ..Sgd::default() };
        let ranges = Tensor::from_slice(&[127.0f32, 127.0, 0.0]);
        let (qmax, velocity) = (Tensor::from_slice(&[127.0f32; 3]), Tensor::zeros_like(&ranges));
        update(&rule, &ranges, &qmax, &velocity, &Tensor::from_slice(&[0.5f32, 1e9, 1.0]), 0.1).unwrap();
        let got = Vec::<f32>::try_from(&ranges).unwrap();
        assert!((got[0] - 127.0 * 0.95).abs() < 1e-4, "{got:?}");
        assert_eq!(got[1], 63.5);
        assert!(got[2] > 0.0 && got[2] < 1e-20);
    }
}
