//! `quantize-weights`: gives the weights of all layers the scheme of the recipe: 8 or 7 bits, symmetric, per output
//! channel.

use crate::graph::{Graph, GraphError};
use crate::quant::placement;
use crate::quant::scheme::Scheme;
use crate::strategy::Strategy;

pub(super) fn apply(mut graph: Graph, strategy: &Strategy) -> Result<Graph, GraphError> {
    let Some(qat) = &strategy.qat else { return Ok(graph) };
    let skip = placement::skipped(&graph, &qat.skip)?;
    for (node, skip) in graph.nodes.iter_mut().zip(skip) {
        if node.op.layer().is_some() && node.op.layer_mut().is_none() {
            let what =
                "has a layer that passes cannot change: its operator gives `layer` without `layer_mut`";
            return Err(GraphError::Node { node: node.name.clone(), op: node.op.kind(), what: what.into() });
        }
        let integer_bias = node.op.facts().takes_integer_bias(&node.ty);
        if let Some(layer) = node.op.layer_mut() {
            layer.scheme = (!skip).then_some(Scheme::weight(qat.weight_bits));
            layer.integer_bias = !skip && integer_bias && qat.target.integer_neighbours();
        }
    }
    Ok(graph)
}
