//! Stochastic gradient descent with momentum on flat tensors.

use super::rule::{Update, UpdateRule};
use super::{Decayed, WeightDecay};
use crate::native;
use tch::{Device, TchError};

/// The update rule, PyTorch's and Paddle's: `d = g + wd * w; v = m * v + d; w -= lr * (nesterov ? d + m * v : v)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Momentum.
    pub momentum: f64,
    /// Nesterov's form.
    pub nesterov: bool,
    /// L2 factors.
    pub weight_decay: WeightDecay,
}

impl Default for Sgd {
    /// The reference's: momentum 0.875, weight decay 2^-15.
    fn default() -> Self {
        let weight_decay = WeightDecay::of_weights(3.0517578125e-05);
        Self { momentum: 0.875, nesterov: false, weight_decay }
    }
}

impl UpdateRule for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn buffers(&self) -> &'static [&'static str] {
        &["momentum"]
    }

    fn update(&self, u: Update) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        let [momentum] = u.buffers else {
            return Err(TchError::Shape(format!("SGD keeps 1 buffer, not {}", u.buffers.len())));
        };
        if u.weights.device() == Device::Cpu {
            for (piece, rate) in Decayed::covering(u.decayed, u.weights.numel() as i64) {
                let all = [u.weights, momentum, u.gradients];
                native::sgd(all, piece, rate, self.momentum, u.lr, self.nesterov)?;
            }
            return Ok(());
        }
        let (mut w, mut v, g) = (u.weights.shallow_clone(), momentum.shallow_clone(), u.gradients);
        for piece in u.decayed {
            let _ = piece.of(g)?.f_add_(&piece.of(&w)?.f_mul_scalar(piece.rate)?)?;
        }
        let _ = v.f_mul_scalar_(self.momentum)?.f_add_(g)?;
        let step = if self.nesterov { v.f_mul_scalar(self.momentum)?.f_add(g)? } else { v.shallow_clone() };
        let _ = w.f_sub_(&step.f_mul_scalar(u.lr)?)?;
        Ok(())
    }

    fn decay(&self) -> WeightDecay {
        self.weight_decay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Tensor;

    #[test]
    fn three_steps_by_hand() {
        for nesterov in [false, true] {
            let rule = Sgd { momentum: 0.5, nesterov, weight_decay: WeightDecay::default() };
            let (w, v) = (Tensor::from_slice(&[1.0f32, 1.0]), [Tensor::from_slice(&[0.0f32, 0.0])]);
            let mut expect = [[1.0f64, 0.0], [1.0, 0.0]];
            for g in [0.3f64, -0.2, 0.1] {
                let gradients = &Tensor::from_slice(&[g as f32; 2]);
                let (weights, buffers) = (&w, &v[..]);
                let decayed = &[Decayed { offset: 0, len: 1, rate: 0.1 }];
                rule.update(Update { weights, buffers, gradients, decayed, lr: 0.1, count: 1 }).unwrap();
                for (i, e) in expect.iter_mut().enumerate() {
                    let d = g + if i == 0 { 0.1 * e[0] } else { 0.0 };
                    e[1] = 0.5 * e[1] + d;
                    e[0] -= 0.1 * if nesterov { d + 0.5 * e[1] } else { e[1] };
                }
            }
            for (got, want) in Vec::<f32>::try_from(&w).unwrap().iter().zip(expect) {
                assert!((f64::from(*got) - want[0]).abs() < 1e-6, "{got} {want:?}");
            }
        }
    }
}
