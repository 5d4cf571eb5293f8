//! What decisions need to know of a network.

use super::{Graph, Op};

/// A network in numbers: what the strategy is decided from where the graph itself is not at hand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkFacts {
    /// Name of the network, e.g. `ResNet50`.
    pub name: String,
    /// Trainable scalars.
    pub parameters: u64,
    /// Layers with a weight: what quantization gives codes ([`crate::graph::Operator::layer`]).
    pub layers: u32,
    /// BatchNorms.
    pub batch_norms: u32,
}

impl NetworkFacts {
    /// Of a graph as it is built, before any pass.
    pub fn of(graph: &Graph) -> Self {
        let count = |f: fn(&Op) -> bool| graph.nodes.iter().filter(|n| f(&n.op)).count() as u32;
        Self {
            name: graph.name.clone(),
            parameters: graph.parameter_count() as u64,
            layers: count(|op| op.layer().is_some()),
            batch_norms: count(|op| matches!(op, Op::BatchNorm(_))),
        }
    }
}
