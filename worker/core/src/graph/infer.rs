//! Shape and type inference: each operator's own rule, with what is asked of all of them.

use super::{Given, Graph, GraphError, NodeId, TensorType};

/// Type of the value that node `id` makes, from the types of the values it reads.
pub fn infer_type(graph: &Graph, id: NodeId) -> Result<TensorType, GraphError> {
    let node = graph.node(id);
    let facts = node.op.facts();
    let fail = |what: String| GraphError::Node { node: node.name.clone(), op: facts.kind(), what };
    let arity = facts.arity();
    if !arity.allows(node.inputs.len()) {
        return Err(fail(format!("takes {arity} inputs, has {}", node.inputs.len())));
    }
    if let Some(late) = node.inputs.iter().find(|i| i.0 >= id.0) {
        let name = match graph.nodes.get(late.0) {
            Some(late) => format!("`{}`", late.name),
            None => format!("value {}, which there is not", late.0),
        };
        return Err(fail(format!(
            "reads {name}, which is not made before it: nodes stand in the order they run, and a graph has no cycle"
        )));
    }
    let inputs = node.inputs.iter().map(|&i| &graph.node(i).ty).collect();
    if let Some(scheme) = facts.layer().and_then(|layer| layer.scheme) {
        scheme.check_weight().map_err(|e| fail(e.to_string()))?;
    }
    facts.infer(&Given { declared: &node.ty, inputs, shapes: graph.shapes() }).map_err(fail)
}
