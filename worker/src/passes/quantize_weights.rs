//! `quantize-weights`: marks the weights of Conv and Linear INT8, symmetric, per output channel.

use super::Settings;
use crate::config::Target;
use crate::graph::{Graph, GraphError, Op};
use crate::quant::placement;

pub(super) fn apply(mut graph: Graph, settings: &Settings) -> Result<Graph, GraphError> {
    graph.weight_bits = settings.weight_bits;
    graph.integer_biases = settings.target == Target::Onnxruntime;
    let skip = placement::skipped(&graph, &settings.skip)?;
    for (node, skip) in graph.nodes.iter_mut().zip(skip) {
        match &mut node.op {
            Op::Conv(c) => c.quantized = !skip,
            Op::Linear(l) => l.quantized = !skip,
            _ => {}
        }
    }
    Ok(graph)
}
