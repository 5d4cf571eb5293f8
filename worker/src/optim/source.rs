//! What a program's network is made of.

use crate::graph::{Graph, GraphError, NetworkFacts};
use crate::passes::Passes;
use crate::strategy::{Purpose, Strategy};

/// The network before any pass, the passes, and what they follow from: what other purposes make their graphs of.
pub(super) struct Source {
    pub graph: Graph,
    pub passes: Passes,
    pub strategy: Strategy,
}

impl Source {
    /// The graph that `strategy` makes of the network for `purpose`.
    pub fn graph_for(&self, strategy: &Strategy, purpose: Purpose) -> Result<Graph, GraphError> {
        self.passes.run(self.graph.clone(), strategy, purpose, |_, _| {})
    }

    /// Names of the passes that made the graph that is trained.
    pub fn pass_names(&self) -> Vec<String> {
        self.passes.names(&self.strategy, &NetworkFacts::of(&self.graph), Purpose::Train)
    }
}
