//! `fold-batch-norm`: removes every BatchNorm and notes it in its convolution or linear layer. Weights are not touched here: export
//! multiplies each channel's step, not its codes, so what was trained is what is deployed.

use crate::graph::{Graph, GraphError, NodeId, Op};

pub(super) fn apply(graph: Graph) -> Result<Graph, GraphError> {
    let consumers = graph.consumers();
    let mut graph = graph;
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    let mut new_id: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    let names: Vec<String> = graph.nodes.iter().map(|n| n.name.clone()).collect();
    for mut node in std::mem::take(&mut graph.nodes) {
        let old_inputs = node.inputs.clone();
        node.inputs.iter_mut().for_each(|i| *i = new_id[i.0]);
        if let Op::BatchNorm(bn) = node.op {
            let (source, at) = (old_inputs[0], node.inputs[0]);
            let before: &mut crate::graph::Node = &mut nodes[at.0];
            match before.op.layer_mut() {
                Some(layer) if layer.folded.is_none() && consumers[source.0].len() == 1 => {
                    layer.folded = Some(bn);
                    new_id.push(at);
                }
                _ => {
                    return Err(GraphError::Node {
                        node: node.name,
                        op: "BatchNorm",
                        what: format!(
                            "`{}` is not a layer with weights that only it reads; it cannot be folded",
                            names[source.0]
                        ),
                    });
                }
            }
            continue;
        }
        new_id.push(NodeId(nodes.len()));
        nodes.push(node);
    }
    let output = new_id[graph.output.0];
    Ok(Graph { nodes, output, ..graph })
}
