//! One ordered list of graph passes. Training, evaluation and export obtain their graph from it; which passes run
//! follows from the strategy by [`decide`], a pure function that everyone calls.

mod amp_cast;
mod decide;
mod drop_dead;
mod edit;
mod fold_batch_norm;
mod list;
mod memory_layout;
mod observe_superset;
mod quantize_activations;
mod quantize_weights;

pub use decide::{Decision, decide};
pub use list::{GraphPass, Pass, Passes};

use crate::graph::{Graph, GraphError, Node, NodeId, Op};
use crate::strategy::{Purpose, Strategy};

/// Rewrites a graph as `strategy` and `purpose` ask for, by Octrain's own passes: [`Passes::run`] of the default list.
pub fn run(graph: Graph, strategy: &Strategy, purpose: Purpose) -> Result<Graph, GraphError> {
    Passes::default().run(graph, strategy, purpose, |_, _| {})
}

/// The graph without its activation quantizers: what placement rules look at.
pub fn strip_quantizers(graph: &Graph) -> Graph {
    let mut new_id = Vec::with_capacity(graph.nodes.len());
    let mut nodes = Vec::new();
    for node in &graph.nodes {
        if matches!(node.op, Op::Quantize(_)) {
            new_id.push(new_id[node.inputs[0].0]);
            continue;
        }
        let inputs = node.inputs.iter().map(|i| new_id[i.0]).collect();
        new_id.push(NodeId(nodes.len()));
        nodes.push(Node { inputs, ..node.clone() });
    }
    Graph { nodes, output: new_id[graph.output.0], ..graph.clone() }
}

#[cfg(test)]
mod rules;
#[cfg(test)]
mod tests;
