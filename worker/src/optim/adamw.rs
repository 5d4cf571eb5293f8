//! Adam with decoupled weight decay on flat tensors (Loshchilov and Hutter, arXiv 1711.05101).

use super::rule::{Update, UpdateRule};
use super::{Decayed, WeightDecay};
use crate::native::{self, AdamWNumbers};
use tch::{Device, TchError, Tensor};

/// The update rule, as PyTorch's AdamW: `w *= 1 - lr * wd; m = b1 * m + (1 - b1) * g; v = b2 * v + (1 - b2) * g^2;
/// w -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + epsilon)`, where `t` counts updates from 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Momentum of the first moment, from 0 to below 1.
    pub beta1: f64,
    /// Momentum of the second moment, from 0 to below 1.
    pub beta2: f64,
    /// What is added to the root of the second moment, above 0.
    pub epsilon: f64,
    /// Parts of a weight, times the learning rate, that decay in a step.
    pub weight_decay: WeightDecay,
}

impl Default for AdamW {
    /// PyTorch's numbers; PyTorch lets everything decay ([`WeightDecay::of_all`]), this one layers' weights alone.
    fn default() -> Self {
        let weight_decay = WeightDecay::of_weights(0.01);
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay }
    }
}

impl UpdateRule for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn buffers(&self) -> &'static [&'static str] {
        &["first_moment", "second_moment"]
    }

    fn counts(&self) -> bool {
        true
    }

    fn update(&self, u: Update) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        let [m, v] = u.buffers else {
            return Err(TchError::Shape(format!("AdamW keeps 2 buffers, not {}", u.buffers.len())));
        };
        let t = i32::try_from(u.count).unwrap_or(i32::MAX);
        let correction = |beta: f64| 1.0 - beta.powi(t);
        if u.weights.device() == Device::Cpu {
            for (piece, rate) in Decayed::covering(u.decayed, u.weights.numel() as i64) {
                let numbers = AdamWNumbers {
                    kept: (1.0 - u.lr * rate) as f32,
                    beta1: self.beta1 as f32,
                    beta2: self.beta2 as f32,
                    towards: (1.0 - self.beta1) as f32,
                    share: (1.0 - self.beta2) as f32,
                    root_scale: correction(self.beta2).sqrt() as f32,
                    epsilon: self.epsilon as f32,
                    rate: (u.lr / correction(self.beta1)) as f32,
                };
                native::adamw([u.weights, m, v, u.gradients], piece, numbers)?;
            }
            return Ok(());
        }
        let (mut w, mut m, mut v) = (u.weights.shallow_clone(), m.shallow_clone(), v.shallow_clone());
        for piece in u.decayed {
            let _ = piece.of(&w)?.f_mul_scalar_(1.0 - u.lr * piece.rate)?;
        }
        let _ = m.f_lerp_(u.gradients, 1.0 - self.beta1)?;
        let squared: Tensor = u.gradients.f_square()?.f_mul_scalar_(1.0 - self.beta2)?;
        let _ = v.f_mul_scalar_(self.beta2)?.f_add_(&squared)?;
        let root = v.f_sqrt()?.f_div_scalar_(correction(self.beta2).sqrt())?.f_add_scalar_(self.epsilon)?;
        let step = m.f_div(&root)?.f_mul_scalar_(u.lr / correction(self.beta1))?;
        let _ = w.f_sub_(&step)?;
        Ok(())
    }

    fn decay(&self) -> WeightDecay {
        self.weight_decay
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn three_steps_by_hand() {
        let rule = AdamW { beta1: 0.5, beta2: 0.75, epsilon: 1e-3, weight_decay: WeightDecay::default() };
        let decayed = &[Decayed { offset: 0, len: 1, rate: 0.1 }];
        let weights = Tensor::from_slice(&[1.0f32, 1.0]);
        let buffers = [Tensor::zeros_like(&weights), Tensor::zeros_like(&weights)];
        let mut expect = [[1.0f64, 0.0, 0.0], [1.0, 0.0, 0.0]];
        for (i, g) in [0.3f64, -0.2, 0.1].into_iter().enumerate() {
            let count = i as u64 + 1;
            let gradients = Tensor::from_slice(&[g as f32; 2]);
            let (weights, buffers, gradients) = (&weights, &buffers[..], &gradients);
            rule.update(Update { weights, buffers, gradients, decayed, lr: 0.1, count }).unwrap();
            for (i, [w, m, v]) in expect.iter_mut().enumerate() {
                *w *= if i == 0 { 1.0 - 0.1 * 0.1 } else { 1.0 };
                *m = 0.5 * *m + 0.5 * g;
                *v = 0.75 * *v + 0.25 * g * g;
                let (first, second) = (1.0 - 0.5f64.powf(count as f64), 1.0 - 0.75f64.powf(count as f64));
                *w -= 0.1 * (*m / first) / ((*v / second).sqrt() + 1e-3);
            }
        }
        for (i, want) in expect.iter().enumerate() {
            let got = [&weights, &buffers[0], &buffers[1]].map(|t| t.double_value(&[i as i64]));
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{got:?} {want:?}");
        }
    }

    #[test]
    fn the_first_step_goes_by_the_learning_rate_whatever_the_gradient_and_late_ones_need_no_correction() {
        let rule = AdamW::default();
        for (g, count) in [(1e-3f32, 1), (1e3, 1), (1.0, u64::MAX)] {
            let (weights, gradients) = (Tensor::zeros([1], (Kind::Float, tch::Device::Cpu)), Tensor::from(g));
            let gradients = gradients.view([1]);
            // Late, with moments as a constant gradient makes them.
            let moments = if count == 1 { [0.0, 0.0] } else { [g, g * g] };
            let buffers = moments.map(|x| Tensor::from_slice(&[x]));
            rule.update(Update {
                weights: &weights,
                buffers: &buffers,
                gradients: &gradients,
                decayed: &[],
                lr: 0.1,
                count,
            })
            .unwrap();
            assert!((weights.double_value(&[0]) + 0.1).abs() < 1e-4, "{g} {count}");
        }
    }
}
