//! `fold-batch-norm`: removes every BatchNorm and notes it in its convolution or linear layer. Weights are not touched here: export
//! multiplies each channel's scale, not its codes, so what was trained is what is deployed.

use crate::graph::{Graph, GraphError, Node, NodeId, Op};
use std::collections::BTreeMap;

pub(super) fn apply(mut graph: Graph) -> Result<Graph, GraphError> {
    let layers: BTreeMap<NodeId, NodeId> =
        graph.iter().filter_map(|(id, _)| Some((graph.batch_norm_behind(id)?.0, id))).collect();
    let names: Vec<String> = graph.nodes.iter().map(|n| n.name.clone()).collect();
    let mut nodes: Vec<Node> = Vec::with_capacity(graph.nodes.len());
    let mut new_id: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for (i, mut node) in std::mem::take(&mut graph.nodes).into_iter().enumerate() {
        let source = node.inputs.first().copied();
        node.inputs.iter_mut().for_each(|i| *i = new_id[i.0]);
        let Op::BatchNorm(norm) = node.op else {
            new_id.push(NodeId(nodes.len()));
            nodes.push(node);
            continue;
        };
        let at = layers.get(&NodeId(i)).map(|layer| new_id[layer.0]);
        match at.and_then(|at| Some((at, nodes[at.0].op.layer_mut()?))) {
            Some((at, layer)) => {
                layer.folded = Some(norm);
                new_id.push(at);
            }
            None => {
                let source = source.map_or("", |s| &names[s.0]);
                let what =
                    format!("`{source}` is not a layer with weights that only it reads; it cannot be folded");
                return Err(GraphError::Node { node: node.name, op: "BatchNorm", what });
            }
        }
    }
    let output = new_id[graph.output.0];
    Ok(Graph { nodes, output, ..graph })
}
