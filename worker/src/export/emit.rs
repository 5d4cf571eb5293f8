//! The graph as ONNX nodes. Values keep the names they have in the graph.

use super::ExportError;
use super::fold::fold;
use super::writer::{Exported, INPUT, Options, Value, Writer};
use crate::checkpoint::State;
use crate::graph::{Graph, Layer, Node, OnnxAttribute, OnnxInput, Op};
use octrain_formats::onnx::proto::AttributeProto;

/// Writes `graph`, which has gone through the pass list for export (BatchNorm folded), with the numbers of `state`.
/// `metadata` goes into the file as it is; the layers that stay in floating point are added to it as `octrain.fp32_layers`,
/// a JSON object of names and reasons.
pub fn emit(
    graph: &Graph,
    state: &State,
    options: Options,
    metadata: Vec<(String, String)>,
) -> Result<Exported, ExportError> {
    let mut w = Writer::new(graph, state, options)?;
    for node in &graph.nodes {
        let value = w.node(node)?;
        w.values.push(value);
    }
    Ok(w.finish(metadata))
}

impl Writer<'_> {
    fn node(&mut self, node: &Node) -> Result<Value, ExportError> {
        match &node.op {
            Op::Input => Ok(Value { tensor: INPUT.into(), quantized: None }),
            Op::Quantize(q) if q.active => self.quantize(node, q),
            Op::Quantize(_) => Ok(self.input(node, 0)),
            _ => self.operator(node),
        }
    }

    /// The ONNX nodes that the operator's facts name.
    fn operator(&mut self, node: &Node) -> Result<Value, ExportError> {
        let unsupported = |why| ExportError::Unsupported { node: node.name.clone(), op: node.op.kind(), why };
        let facts = node.op.facts();
        let written = facts.onnx(&self.graph.shapes()).map_err(unsupported)?;
        let layer = facts.layer().map(|layer| self.layer(node, layer)).transpose()?;
        for (i, part) in written.iter().enumerate() {
            let mut inputs = Vec::new();
            for input in &part.inputs {
                match input {
                    OnnxInput::Value(slot) => inputs.push(self.input(node, *slot).tensor),
                    OnnxInput::Values => {
                        inputs.extend((0..node.inputs.len()).map(|slot| self.input(node, slot).tensor));
                    }
                    OnnxInput::Made(earlier) => inputs.push(part_name(node, *earlier, written.len())),
                    OnnxInput::Param(name) => inputs.push(self.parameter(name)?),
                    OnnxInput::Weight | OnnxInput::Bias => {
                        let [weight, bias] = layer.clone().ok_or_else(|| {
                            unsupported("its ONNX node reads a layer's weight, and it is none".into())
                        })?;
                        inputs.push(if *input == OnnxInput::Weight { weight } else { bias });
                    }
                }
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let name = part_name(node, i, written.len());
            self.op(part.op_type, &name, &inputs, &name, part.attributes.iter().map(attribute).collect());
        }
        Ok(match facts.hands_on() {
            true => self.handed_on(node),
            false => Value { tensor: node.name.clone(), quantized: None },
        })
    }

    /// Weight and bias of a layer, with BatchNorm folded in; the tensors to read.
    fn layer(&mut self, node: &Node, layer: &Layer) -> Result<[String; 2], ExportError> {
        let missing = || ExportError::Missing(layer.weight.clone());
        let shape = self.graph.shapes().of(&layer.weight).ok_or_else(missing)?;
        let input = self.input(node, 0).quantized.filter(|_| layer.integer_bias).map(|q| q.scale);
        let folded = fold(self.state, layer, shape[0], input)?;
        self.weights(node, layer, shape, folded)
    }

    /// A parameter in floating point; written once.
    fn parameter(&mut self, name: &str) -> Result<String, ExportError> {
        let t = self.state.get(name).ok_or_else(|| ExportError::Missing(name.into()))?;
        if !self.tensors.iter().any(|t| t.name() == name) {
            self.floats(name, &t.shape, &t.data)?;
        }
        Ok(name.into())
    }
}

/// Name of the `i`th ONNX node of an operator that is `of` of them, and of what it makes.
fn part_name(node: &Node, i: usize, of: usize) -> String {
    if i + 1 == of { node.name.clone() } else { format!("{}.{i}", node.name) }
}

fn attribute((name, value): &(&'static str, OnnxAttribute)) -> AttributeProto {
    match value {
        OnnxAttribute::Int(value) => AttributeProto::int(name, *value),
        OnnxAttribute::Ints(values) => AttributeProto::ints(name, values.clone()),
        OnnxAttribute::Float(value) => AttributeProto::float(name, *value),
    }
}
