//! What cannot be exported.

/// An error of export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The passes refused.
    #[error(transparent)]
    Graph(#[from] crate::graph::GraphError),
    /// The checkpoint lacks a tensor.
    #[error("the checkpoint has no tensor `{0}`; was it written for another network?")]
    Missing(String),
    /// A range is not known.
    #[error(
        "activation `{0}` has no range in this checkpoint; INT8 profiles need one of quantization-aware training, or one that was calibrated"
    )]
    NoRange(String),
    /// A number that cannot be quantized.
    #[error("`{name}` holds {value}, which cannot be quantized; the checkpoint is of a run that diverged")]
    NotFinite {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
    },
    /// An operator that export does not know.
    #[error("node `{node}` ({op}) cannot be exported: {why}")]
    Unsupported {
        /// The node.
        node: String,
        /// Its operator.
        op: &'static str,
        /// Why.
        why: String,
    },
    /// Opset out of range.
    #[error("opset {0} is not supported; 13 to 21 are")]
    Opset(i64),
    /// A floating-point type that the file cannot have.
    #[error("{0}")]
    FloatType(String),
}
