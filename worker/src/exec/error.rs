//! What can go wrong while a graph runs.

use crate::quant::observer::NonFinite;

/// An error of execution; names the node.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// libtorch refused an operation.
    #[error("node `{node}`: {}", words(source))]
    Node {
        /// Name of the node.
        node: String,
        /// libtorch's words.
        source: tch::TchError,
    },
    /// libtorch refused an operation outside any node.
    #[error("libtorch: {}", words(.0))]
    Torch(#[from] tch::TchError),
    /// An operator from outside of which nothing says how it runs.
    #[error(
        "node `{node}` ({kind}): nothing says how libtorch runs this operator; implement exec::ops::Forward for its type and call exec::ops::register::<TYPE>(\"{kind}\") before the network is built"
    )]
    NoExecution {
        /// Name of the node.
        node: String,
        /// Its operator.
        kind: &'static str,
    },
    /// The native fake-quant operator refused.
    #[error("node `{node}`: {source}")]
    Native {
        /// Name of the node.
        node: String,
        /// Its words.
        source: crate::native::NativeError,
    },
    /// A layer that cannot compute on INT8 codes as it is to ([`Mode::int8`](super::Mode::int8)).
    #[error("node `{node}` is to compute on INT8 codes, and {what}")]
    Codes {
        /// Name of the node.
        node: String,
        /// Why it cannot.
        what: &'static str,
    },
    /// Weights do not fit the graph.
    #[error("parameter `{name}` {what}")]
    State {
        /// Name of the parameter.
        name: String,
        /// What does not fit.
        what: String,
    },
    /// Weights that a checkpoint does not have.
    #[error("parameter `{name}` is not in the checkpoint in the shape of this network")]
    Lacks {
        /// Name of the parameter.
        name: String,
    },
    /// Statistics of a batch that has one value a channel: its variance is none, and every value becomes the same.
    #[error(
        "BatchNorm `{node}` sees one value a channel in a microbatch, which has no variance: give microbatches more images, or the network larger ones"
    )]
    OneValue {
        /// Name of the node.
        node: String,
    },
    /// A quantizer without a range.
    #[error(
        "quantizer `{0}` has no range yet: calibrate first, or start from a checkpoint of quantization-aware training"
    )]
    NoRange(String),
    /// NaN or infinity in an activation.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
}

impl ExecError {
    /// The same of this node, where it was of no node yet.
    pub(super) fn at(self, node: &str) -> Self {
        match self {
            ExecError::Torch(source) => ExecError::Node { node: node.into(), source },
            other => other,
        }
    }
}

/// libtorch's message without the addresses of its own stack, which help nobody here.
pub(crate) fn words(e: &dyn std::error::Error) -> String {
    let text = e.to_string();
    let end = ["Exception raised from", "\nframe #0"].iter().filter_map(|mark| text.find(mark)).min();
    text[..end.unwrap_or(text.len())].trim_end().to_string()
}
