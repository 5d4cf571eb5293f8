//! Knowledge distillation from the floating-point network a run starts from (Hinton et al., arXiv 1503.02531).

use super::OptimError;
use crate::checkpoint::State;
use crate::exec::{Evaluator, ExecError, Mode};
use crate::graph::Graph;
use crate::strategy::Distillation;
use tch::{Device, Kind, Tensor};

/// The loss of one microbatch: cross-entropy `labels_loss` and logits `[b, classes]` (FP32) of both networks.
pub(super) fn loss(
    d: Distillation,
    labels_loss: &Tensor,
    student: &Tensor,
    teacher: &Tensor,
) -> Result<Tensor, tch::TchError> {
    let t = d.temperature;
    let student = student.f_div_scalar(t)?.f_log_softmax(1, Kind::Float)?;
    let teacher = teacher.f_div_scalar(t)?.f_log_softmax(1, Kind::Float)?;
    let divergence = (teacher.f_exp()?.f_mul(&teacher.f_sub(&student)?)?)
        .f_sum_dim_intlist([1i64].as_slice(), false, Kind::Float)?
        .f_mean(Kind::Float)?;
    labels_loss.f_mul_scalar(1.0 - d.weight)?.f_add(&divergence.f_mul_scalar(d.weight * t * t)?)
}

/// The floating-point network in evaluation mode, in the precision of the run.
pub struct Teacher(Evaluator);

impl Teacher {
    /// From a graph of the pass list without its quantization, and its weights and statistics, all of which must be there.
    pub fn new(graph: Graph, state: &State, device: Device) -> Result<Self, OptimError> {
        match Evaluator::of_state(graph, state, Mode::evaluation(false), device) {
            Ok(network) => Ok(Self(network)),
            Err(ExecError::Lacks { name }) => Err(OptimError::TeacherLacks { name }),
            Err(e) => Err(e.into()),
        }
    }

    /// Logits `[b, classes]` of images `[b, C, H, W]`.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor, OptimError> {
        Ok(self.0.logits(images)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_student_that_equals_its_teacher_has_only_the_labels_part() {
        let d = Distillation { weight: 0.25, temperature: 4.0 };
        let logits = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0, 0.0, -1.0]).view([2, 3]);
        let ce = Tensor::from_slice(&[2.0f32]).squeeze();
        let same = loss(d, &ce, &logits, &logits).unwrap().double_value(&[]);
        assert!((same - 1.5).abs() < 1e-6, "{same}");
    }

    #[test]
    fn the_divergence_is_that_of_the_formula() {
        let d = Distillation { weight: 1.0, temperature: 2.0 };
        let student = Tensor::from_slice(&[0.0f32, 0.0]).view([1, 2]);
        let teacher = Tensor::from_slice(&[2.0f32, 0.0]).view([1, 2]);
        let p = 1.0 / (1.0 + (-1.0f64).exp());
        let kl = p * (p / 0.5).ln() + (1.0 - p) * ((1.0 - p) / 0.5).ln();
        let got = loss(d, &Tensor::from(0.0f32), &student, &teacher).unwrap().double_value(&[]);
        assert!((got - 4.0 * kl).abs() < 1e-6, "{got} against {}", 4.0 * kl);
    }
}
