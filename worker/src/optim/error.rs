//! What can go wrong in a training step.

use crate::checkpoint::Difference;
use crate::collective::CollectiveError;
use crate::data::DataError;
use crate::exec::ExecError;
use crate::graph::GraphError;
use crate::strategy::{QatError, Rank};

/// An error of the distributed optimizer.
#[derive(Debug, thiserror::Error)]
pub enum OptimError {
    /// The recipe cannot be trained.
    #[error(transparent)]
    Qat(#[from] QatError),
    /// The passes failed.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The graph failed to run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Ranks could not exchange.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The loss is NaN or infinite.
    #[error(
        "the loss is {loss} at step {step} (lr {lr:.3e}): lower the learning rate or lengthen the warm-up; Program::watch_step shows the values of every node"
    )]
    Loss {
        /// The value.
        loss: f64,
        /// Global step.
        step: u64,
        /// Learning rate.
        lr: f64,
    },
    /// Gradients are NaN or infinite although the loss is not, and no loss scale can explain it.
    #[error(
        "gradients hold NaN or infinity at step {step} although the loss is {loss}: lower the learning rate"
    )]
    Gradients {
        /// The loss.
        loss: f64,
        /// Global step.
        step: u64,
    },
    /// A loss scale has fallen to its floor and gradients still overflow.
    #[error(
        "gradients overflow FP16 even at loss scale {scale}: train with BF16, or lower the learning rate"
    )]
    ScaleFloor {
        /// The scale.
        scale: f64,
    },
    /// A rank got another number of microbatches than its own.
    #[error("rank {} of {} was given {got} microbatches; of the {all} of a step, {local} are local to it", place.rank, place.world)]
    LocalMicrobatches {
        /// The rank.
        place: Rank,
        /// Microbatches given.
        got: usize,
        /// Microbatches in a global batch.
        all: usize,
        /// Its local microbatches.
        local: usize,
    },
    /// Nothing to take statistics from, on any rank.
    #[error("no image of the {total} microbatches for statistics could be read")]
    NoImages {
        /// Microbatches that there should be, of all ranks.
        total: usize,
    },
    /// A recipe without images for ranges that are not known.
    #[error(
        "Qat::calibration_images is 0, and {unknown} activation ranges are not known: give at least one image, or call Program::calibrate"
    )]
    NoCalibration {
        /// Ranges that are not known.
        unknown: usize,
    },
    /// A recipe's statistics that nobody has taken.
    #[error(
        "Qat::bn_images is {images}: before step {step} BatchNorm's statistics, which freeze there, are to be estimated anew from so many training images; call Program::reestimate_batch_norm_on, or Program::reestimate_batch_norm"
    )]
    StatisticsDue {
        /// Images that the recipe wants.
        images: usize,
        /// The first step with frozen statistics.
        step: u64,
    },
    /// Training images cannot be read.
    #[error(transparent)]
    Data(Box<DataError>),
    /// Microbatches of a calibration that cannot be placed.
    #[error("microbatches for statistics: {0}")]
    Positions(String),
    /// A teacher in a training that does not distil.
    #[error("a teacher was given, but Qat::distillation is not set: nothing would be learned from it")]
    TeacherWithoutDistillation,
    /// An observer of one's own in a training without quantization.
    #[error(
        "an observer was given, but Strategy::qat is not set: there are ranges in quantization-aware training only"
    )]
    ObserverWithoutQat,
    /// An observer's range that is none.
    #[error("the observer gave the range {range} for `{quantizer}`: ranges are finite and not negative")]
    Range {
        /// Name of the quantizer.
        quantizer: String,
        /// What it gave.
        range: f32,
    },
    /// A forward on INT8 codes that cannot be.
    #[error("the forward cannot be computed on INT8 codes: {why}")]
    Int8Forward {
        /// Why.
        why: String,
    },
    /// Distillation without a teacher.
    #[error("distillation needs the floating-point network it learns from: Program::follow takes it")]
    NoTeacher,
    /// A teacher for other images or classes.
    #[error(
        "the teacher is a network of {theirs}, and the one that follows it of {ours}: both must take the same images and tell as many classes"
    )]
    TeacherTask {
        /// Shapes of the teacher's input and output.
        theirs: String,
        /// Those of the network that is trained.
        ours: String,
    },
    /// A teacher that cannot be run as it was trained.
    #[error("the teacher cannot be run as it was trained: {0}; distil in the program that has its passes")]
    TeacherPasses(Box<Difference>),
    /// Weights of a teacher that are not those of its network.
    #[error(
        "the teacher's weights have no parameter `{name}` in the shape of its network; a checkpoint says which network its weights are of, a file of weights alone is taken for one of the network that is trained"
    )]
    TeacherLacks {
        /// The parameter.
        name: String,
    },
    /// BatchNorm statistics that are not finite.
    #[error("BatchNorm's statistics, estimated anew, hold NaN or infinity: lower the learning rate")]
    Statistics,
    /// BatchNorm layers with different momentum.
    #[error("BatchNorm layers differ in their momentum; one for all is supported")]
    MixedMomentum,
    /// Ranks hold different numbers.
    #[error(
        "{what} differ between ranks: ranks {ranks:?} do not hold what rank 0 holds; do all hosts read the same checkpoint and run the same version?"
    )]
    Diverged {
        /// What differs.
        what: String,
        /// The ranks that do.
        ranks: Vec<usize>,
    },
}

impl OptimError {
    /// Whether numbers of the training are NaN or infinite, which they are on every rank.
    pub fn is_not_finite(&self) -> bool {
        matches!(
            self,
            OptimError::Loss { .. }
                | OptimError::Gradients { .. }
                | OptimError::ScaleFloor { .. }
                | OptimError::Statistics
                | OptimError::Exec(ExecError::NonFinite(_))
        )
    }
}

impl OptimError {
    /// An error on a range that is none.
    pub(super) fn check_range(quantizer: &str, range: f32) -> Result<(), OptimError> {
        match range.is_finite() && range >= 0.0 {
            true => Ok(()),
            false => Err(OptimError::Range { quantizer: quantizer.into(), range }),
        }
    }
}

impl From<DataError> for OptimError {
    fn from(e: DataError) -> Self {
        OptimError::Data(Box::new(e))
    }
}

impl From<tch::TchError> for OptimError {
    fn from(e: tch::TchError) -> Self {
        OptimError::Exec(e.into())
    }
}
