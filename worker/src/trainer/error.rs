//! What can end a run.

use crate::checkpoint::CheckpointError;
use crate::collective::CollectiveError;
use crate::data::DataError;
use crate::exec::ExecError;
use crate::metrics::ReportError;
use crate::models::ModelError;
use crate::optim::OptimError;
use crate::session::{FailureKind, SessionError};

/// An error of a run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The network.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A step.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// Execution.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Ranks.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The coordinator.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The report file.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// NaN or infinity, traced (`octrain debug`).
    #[error("the first layer with NaN or infinite values is `{node}` ({count} of them): {source}")]
    FirstNonFinite {
        /// The node.
        node: String,
        /// Values that are not finite.
        count: u64,
        /// What it led to.
        source: OptimError,
    },
    /// A setting that cannot be met.
    #[error("{0}")]
    Config(String),
    /// The validation set is empty.
    #[error("the validation set has no readable image; check the folder `val/`")]
    NothingToEvaluate,
    /// The coordinator ended the job because of another worker.
    #[error("the job was ended by the coordinator: {0}")]
    Aborted(String),
}

impl From<tch::TchError> for TrainError {
    fn from(e: tch::TchError) -> Self {
        TrainError::Exec(e.into())
    }
}

impl TrainError {
    /// What the coordinator makes of it: whether trying again can help, and whether another worker's end may be the
    /// cause.
    pub fn kind(&self) -> FailureKind {
        match self {
            TrainError::Model(_) | TrainError::Config(_) | TrainError::NothingToEvaluate => {
                FailureKind::Configuration
            }
            TrainError::Data(
                DataError::Missing { .. }
                | DataError::Empty { .. }
                | DataError::ForeignClass { .. }
                | DataError::Classes { .. }
                | DataError::TooFew { .. },
            ) => FailureKind::Configuration,
            TrainError::Checkpoint(
                CheckpointError::NotFound { .. }
                | CheckpointError::Other { .. }
                | CheckpointError::Mismatch { .. }
                | CheckpointError::Format { .. },
            ) => FailureKind::Configuration,
            TrainError::Optim(OptimError::Graph(_)) => FailureKind::Configuration,
            TrainError::Collective(_)
            | TrainError::Optim(OptimError::Collective(_))
            | TrainError::Aborted(_) => FailureKind::Communication,
            _ => FailureKind::Own,
        }
    }
}
