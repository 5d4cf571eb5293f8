//! `observe-superset`: observes what other targets would quantize, so that every profile can be written from
//! every checkpoint.

use super::edit;
use super::quantize_activations::quantizer;
use crate::graph::{Graph, GraphError};
use crate::quant::placement;
use crate::strategy::Strategy;

pub(super) fn apply(graph: Graph, strategy: &Strategy) -> Result<Graph, GraphError> {
    let Some(qat) = &strategy.qat else { return Ok(graph) };
    // The rules look at the graph without quantizers; names of values are the same in both.
    let plain = super::strip_quantizers(&graph);
    let skip = placement::skipped(&plain, &qat.skip)?;
    let consumers = graph.consumers();
    let mut insertions = Vec::new();
    for value in placement::superset(&plain, &skip)? {
        let name = &plain.node(value).name;
        if graph.quantizers().any(|(_, q)| &q.name == name) {
            continue;
        }
        let here = graph.find(name).expect("stripping quantizers keeps all other nodes");
        let edges = consumers[here.0].clone();
        insertions.push(edit::Insertion {
            after: here,
            node: quantizer(&graph, here, qat, false),
            edges,
            output: false,
        });
    }
    Ok(edit::insert(graph, insertions))
}
