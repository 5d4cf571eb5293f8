//! What a step minimises.

use super::OptimError;
use super::distill::{self, Teacher};
use super::program::Microbatch;
use super::rule::Loss;
use crate::strategy::Distillation;
use tch::Tensor;

/// The loss on labels, and the network whose logits are followed besides.
pub(super) struct Objective {
    pub loss: Box<dyn Loss>,
    pub teacher: Option<Teacher>,
}

impl Objective {
    /// The loss of one microbatch, labels' and teacher's.
    pub fn of(
        &self,
        distillation: Option<Distillation>,
        logits: &Tensor,
        m: &Microbatch,
    ) -> Result<Tensor, OptimError> {
        let loss = self.loss.loss(logits, m.labels)?;
        match (distillation, &self.teacher) {
            (None, _) => Ok(loss),
            (Some(d), Some(teacher)) => Ok(distill::loss(d, &loss, logits, &teacher.logits(m.images)?)?),
            (Some(_), None) => Err(OptimError::NoTeacher),
        }
    }
}
