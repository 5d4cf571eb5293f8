//! Knowledge distillation from a network that was trained before (Hinton et al., arXiv 1503.02531).

use super::OptimError;
use crate::checkpoint::{Made, Same, Snapshot, State, difference};
use crate::exec::{Evaluator, ExecError, Mode};
use crate::graph::{Graph, NetworkFacts};
use crate::passes::Passes;
use crate::strategy::{Distillation, Purpose, Strategy};
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

/// The network that is followed, in evaluation mode. It need not be the one that is trained: it has its own graph.
pub struct Teacher(Evaluator);

impl Teacher {
    /// From a graph of the pass list without its quantization, and its weights and statistics, all of which must be there.
    pub fn new(graph: Graph, state: &State, device: Device) -> Result<Self, OptimError> {
        Self::of(graph, state, false, device)
    }

    /// The network of a checkpoint as the checkpoint has it: its own graph, through its own passes, with its own recipe where
    /// it was trained with quantization, in the precision and memory order of `run`, the strategy that is trained. `passes`
    /// are those that are known here.
    ///
    /// # Errors
    /// When the checkpoint's passes are not among them.
    pub fn of_checkpoint(
        checkpoint: &Snapshot,
        passes: &Passes,
        run: &Strategy,
        device: Device,
    ) -> Result<Self, OptimError> {
        let (graph, theirs) = (&checkpoint.graph, &checkpoint.manifest.strategy);
        let facts = NetworkFacts::of(graph);
        let here = Made { graph, passes: passes.names(theirs, &facts, Purpose::Train), strategy: theirs };
        if let Some(difference) = difference(&checkpoint.made(), &here, Same::Meaning) {
            return Err(OptimError::TeacherPasses(Box::new(difference)));
        }
        let strategy = Strategy { amp: run.amp, layout: run.layout, qat: theirs.qat.clone() };
        let graph = passes.run(graph.clone(), &strategy, Purpose::Train, |_, _| {})?;
        Self::of(graph, &checkpoint.model, strategy.qat.is_some(), device)
    }

    fn of(graph: Graph, state: &State, quantize: bool, device: Device) -> Result<Self, OptimError> {
        match Evaluator::of_state(graph, state, Mode::evaluation(quantize), device) {
            Ok(network) => Ok(Self(network)),
            Err(ExecError::Lacks { name }) => Err(OptimError::TeacherLacks { name }),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether its logits can be compared with those of `student`: for the same images, as many of them.
    pub(super) fn fits(&self, student: &Graph) -> Result<(), OptimError> {
        let ends = |g: &Graph| {
            let [images, classes] = [g.input(), g.output].map(|id| &g.node(id).ty.shape);
            format!("images {images:?} and classes {classes:?}")
        };
        let (theirs, ours) = (ends(self.0.graph()), ends(student));
        match theirs == ours {
            true => Ok(()),
            false => Err(OptimError::TeacherTask { theirs, ours }),
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
