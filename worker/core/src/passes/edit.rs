//! Inserting and removing nodes while keeping the topological order.

use crate::graph::{Graph, Node, NodeId};

/// A node to be put on edges.
pub(super) struct Insertion {
    /// The value it reads; it is placed right after the node that makes it.
    pub after: NodeId,
    /// The node; its only input is set by [`insert`].
    pub node: Node,
    /// The edges (reading node, position) that are to read it instead.
    pub edges: Vec<(NodeId, usize)>,
    /// Whether the graph's output is to be it, if the output was `after`.
    pub output: bool,
}

/// Inserts nodes; ids in `insertions` are those of `graph`. At most one insertion per value.
pub(super) fn insert(graph: Graph, insertions: Vec<Insertion>) -> Graph {
    let mut new_id = Vec::with_capacity(graph.nodes.len());
    let mut nodes = Vec::with_capacity(graph.nodes.len() + insertions.len());
    let mut inserted = vec![None; graph.nodes.len()];
    for (i, mut node) in graph.nodes.into_iter().enumerate() {
        for (slot, input) in node.inputs.iter_mut().enumerate() {
            let by = insertions.iter().find(|x| x.after == *input && x.edges.contains(&(NodeId(i), slot)));
            *input = match by {
                Some(_) => inserted[input.0].expect("an insertion follows the value it reads"),
                None => new_id[input.0],
            };
        }
        new_id.push(NodeId(nodes.len()));
        nodes.push(node);
        if let Some(x) = insertions.iter().find(|x| x.after.0 == i) {
            inserted[i] = Some(NodeId(nodes.len()));
            nodes.push(Node { inputs: vec![new_id[i]], ..x.node.clone() });
        }
    }
    let output = match insertions.iter().find(|x| x.after == graph.output && x.output) {
        Some(_) => inserted[graph.output.0].expect("inserted above"),
        None => new_id[graph.output.0],
    };
    Graph { nodes, output, ..graph }
}
