//! `fold-batch-norm`: removes every BatchNorm that is right behind a layer and notes it there; one that stands apart stays as it is.
//! Weights are not touched here: export multiplies each channel's scale, not its codes, so what was trained is what is deployed.

use crate::graph::{Graph, GraphError, Node, NodeId, Op};
use std::collections::BTreeMap;

pub(super) fn apply(mut graph: Graph) -> Result<Graph, GraphError> {
    let layers: BTreeMap<NodeId, NodeId> =
        graph.iter().filter_map(|(id, _)| Some((graph.batch_norm_behind(id)?.0, id))).collect();
    let mut nodes: Vec<Node> = Vec::with_capacity(graph.nodes.len());
    let mut new_id: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for (i, mut node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        node.inputs.iter_mut().for_each(|i| *i = new_id[i.0]);
        let layer = layers.get(&NodeId(i)).map(|layer| new_id[layer.0]);
        let folded = layer.and_then(|at| Some((at, nodes[at.0].op.layer_mut()?)));
        match (&node.op, folded) {
            (Op::BatchNorm(norm), Some((at, layer))) => {
                layer.folded = Some(norm.clone());
                new_id.push(at);
            }
            _ => {
                new_id.push(NodeId(nodes.len()));
                nodes.push(node);
            }
        }
    }
    let output = new_id[graph.output.0];
    Ok(Graph { nodes, output, ..graph })
}
