//! `quantize-activations`: places activation quantizers by the target's rules.

use super::edit;
use crate::graph::{DType, Graph, GraphError, Node, NodeId, Op, Quantizer, TensorType};
use crate::quant::placement;
use crate::strategy::{Qat, Strategy};
use std::collections::BTreeMap;

pub(super) fn apply(graph: Graph, strategy: &Strategy) -> Result<Graph, GraphError> {
    let Some(qat) = &strategy.qat else { return Ok(graph) };
    let skip = placement::skipped(&graph, &qat.skip)?;
    let mut by_value: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
    for (node, slot) in placement::edges(&graph, qat.target, &skip)? {
        by_value.entry(graph.node(node).inputs[slot]).or_default().push((node, slot));
    }
    let insertions = by_value
        .into_iter()
        .map(|(value, edges)| edit::Insertion {
            after: value,
            node: quantizer(&graph, value, qat, true),
            edges,
            output: false,
        })
        .collect();
    Ok(edit::insert(graph, insertions))
}

/// The quantizer node of a value: it fake-quantizes if `active`, else it only observes.
pub(super) fn quantizer(graph: &Graph, value: NodeId, qat: &Qat, active: bool) -> Node {
    let name = graph.node(value).name.clone();
    Node {
        name: format!("{name}.{}", if active { "quantize" } else { "observe" }),
        op: Op::Quantize(Quantizer { name, scheme: qat.activation(placement::sign(graph, value)), active }),
        inputs: Vec::new(),
        ty: TensorType { shape: Vec::new(), dtype: DType::F32 },
    }
}
