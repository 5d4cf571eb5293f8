//! What can be wrong with a graph.

/// A graph that cannot be built, typed or run; names the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A node's inputs do not fit its operator.
    #[error("node `{node}` ({op}): {what}")]
    Node {
        /// Name of the node.
        node: String,
        /// Its operator.
        op: &'static str,
        /// What does not fit.
        what: String,
    },
    /// The graph as a whole is malformed.
    #[error("graph `{graph}`: {what}")]
    Malformed {
        /// Name of the graph.
        graph: String,
        /// What is wrong.
        what: String,
    },
    /// A pattern of [`crate::strategy::Qat::skip`] that matches nothing.
    #[error("the pattern '{pattern}' of `qat.skip` matches no node; names look like `{example}`")]
    SkipMatchesNothing {
        /// The pattern.
        pattern: String,
        /// The name of some node.
        example: String,
    },
    /// A pattern of [`crate::strategy::Qat::skip`] that matches only nodes that are not quantized.
    #[error(
        "the pattern '{pattern}' of `qat.skip` matches nothing that is quantized; the first node that it matches is {node}"
    )]
    SkipsUnquantized {
        /// The pattern.
        pattern: String,
        /// The first node that it matches, with its operator, and why it is not quantized.
        node: String,
    },
    /// An operator that no placement rule of the target speaks of.
    #[error(
        "node `{node}` ({op}): there is no rule for how {target} computes it in INT8; leave it in floating point: `qat.skip` names nodes"
    )]
    NoPlacementRule {
        /// Name of the node.
        node: String,
        /// Its operator.
        op: &'static str,
        /// The runtime.
        target: &'static str,
    },
}
