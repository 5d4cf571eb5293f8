//! `drop-dead`: removes nodes the output does not depend on, and parameters nobody reads.

use crate::graph::{Graph, GraphError, NodeId};

pub(super) fn apply(graph: Graph) -> Result<Graph, GraphError> {
    let live = graph.live();
    let mut new_id = vec![NodeId(0); graph.nodes.len()];
    let mut nodes = Vec::new();
    for (i, mut node) in graph.nodes.into_iter().enumerate() {
        // The input stays, so that the graph keeps its signature.
        if live[i] || i == 0 {
            node.inputs.iter_mut().for_each(|x| *x = new_id[x.0]);
            new_id[i] = NodeId(nodes.len());
            nodes.push(node);
        }
    }
    let params =
        graph.params.into_iter().filter(|p| nodes.iter().any(|n| n.op.params().contains(&p.name.as_str())));
    Ok(Graph { params: params.collect(), output: new_id[graph.output.0], nodes, ..graph })
}
