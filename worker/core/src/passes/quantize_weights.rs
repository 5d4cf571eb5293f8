//! `quantize-weights`: marks the weights of Conv and Linear INT8, symmetric, per output channel.

use crate::graph::{Graph, GraphError};
use crate::quant::placement;
use crate::strategy::{Strategy, Target};

pub(super) fn apply(mut graph: Graph, strategy: &Strategy) -> Result<Graph, GraphError> {
    let Some(qat) = &strategy.qat else { return Ok(graph) };
    graph.weight_bits = qat.weight_bits;
    graph.integer_biases = qat.target == Target::Onnxruntime;
    let skip = placement::skipped(&graph, &qat.skip)?;
    for (node, skip) in graph.nodes.iter_mut().zip(skip) {
        if let Some(layer) = node.op.layer_mut() {
            layer.quantized = !skip;
        }
    }
    Ok(graph)
}
