//! `amp-cast`: layers compute in BF16 or FP16, everything between them follows; logits leave in FP32.
//! The image is quantized before it is cast, so that its codes are those the engine computes.

use super::edit;
use crate::graph::{Cast, DType, Graph, GraphError, Node, NodeId, Op, TensorType};
use crate::strategy::{Amp, Strategy};

pub(super) fn apply(mut graph: Graph, strategy: &Strategy) -> Result<Graph, GraphError> {
    let dtype = match strategy.amp {
        Amp::Off => return Ok(graph),
        Amp::Bf16 => DType::Bf16,
        Amp::Fp16 => DType::F16,
    };
    for node in &mut graph.nodes {
        if let Some(layer) = node.op.layer_mut() {
            layer.compute = dtype;
        }
        match &mut node.op {
            Op::Parameter(value) => value.compute = dtype,
            Op::Constant(value) => value.compute = dtype,
            _ => {}
        }
    }
    let consumers = graph.consumers();
    let mut source = graph.input();
    while let [(only, _)] = consumers[source.0][..]
        && matches!(graph.node(only).op, Op::Quantize(_))
    {
        source = only;
    }
    let cast = |name: &str, to: DType| Node {
        name: name.into(),
        op: Op::Cast(Cast { to }),
        inputs: Vec::new(),
        ty: TensorType { shape: Vec::new(), dtype: to },
    };
    let at = |after: NodeId, node: Node, output: bool| edit::Insertion {
        after,
        node,
        edges: consumers[after.0].clone(),
        output,
    };
    let output = graph.output;
    let insertions =
        vec![at(source, cast("input.cast", dtype), false), at(output, cast("logits", DType::F32), true)];
    Ok(edit::insert(graph, insertions))
}
