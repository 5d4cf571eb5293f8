//! What can go wrong in an analysis.

use crate::data::DataError;
use crate::exec::ExecError;
use crate::graph::GraphError;
use crate::native::NativeError;

/// An error of the analysis.
#[derive(Debug, thiserror::Error)]
pub enum AnalyzeError {
    /// The network cannot run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The passes refuse.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The images cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A tensor cannot be computed with.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// The native operator refused.
    #[error(transparent)]
    Native(#[from] NativeError),
    /// A layer makes NaN or infinity.
    #[error(
        "layer `{layer}` makes {count} NaN or infinite values of {set} images: its weights, its BatchNorm statistics or its input are broken; take an earlier checkpoint, or train with a lower --lr"
    )]
    NonFinite {
        /// The first such layer, in the order of the network.
        layer: String,
        /// How many, in one batch.
        count: u64,
        /// `training` or `validation`.
        set: &'static str,
    },
    /// Nothing to evaluate.
    #[error("the {set} set has no readable image")]
    NoImages {
        /// `training` or `validation`.
        set: &'static str,
    },
    /// No layer is quantized.
    #[error("no layer is quantized: --qat-skip names them all")]
    NothingQuantized,
}

impl AnalyzeError {
    /// Whether trying again without changing anything is of no use: the request or its data are at fault.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Exec(ExecError::State { .. } | ExecError::Lacks { .. } | ExecError::NoRange(_))
            | Self::Graph(_) => true,
            Self::NoImages { .. } | Self::NothingQuantized => true,
            Self::Exec(_) | Self::Data(_) | Self::Torch(_) | Self::Native(_) | Self::NonFinite { .. } => {
                false
            }
        }
    }
}
