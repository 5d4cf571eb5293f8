//! The graph as ONNX nodes, which keep the names they have in the graph, and so do values where nothing else has theirs.

use super::fold::fold;
use super::profile::ZeroPoint;
use super::writer::{Exported, INPUT, Options, Value, Writer};
use super::{ExportError, FloatType, Profile};
use crate::checkpoint::{State, range_key};
use crate::graph::{Graph, Layer, Node, OnnxAttribute, OnnxInput, OnnxScope, Op, Quantizer};
use octrain_formats::onnx::proto::{AttributeProto, TensorProto};

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
            op if op.facts().only_in_training() || self.is_cut_off_behind(node) => Ok(self.input(node, 0)),
            op => {
                if op.facts().stays_float() && self.profile != Profile::Fp32 {
                    let why = format!("{} is computed in floating point on every target", op.kind());
                    self.fp32_nodes.push((node.name.clone(), why));
                }
                self.operator(node)
            }
        }
    }

    /// The ONNX nodes that the operator's facts name.
    fn operator(&mut self, node: &Node) -> Result<Value, ExportError> {
        let unsupported = |why| ExportError::Unsupported { node: node.name.clone(), op: node.op.kind(), why };
        let facts = node.op.facts();
        let scope = OnnxScope {
            shapes: self.graph.shapes(),
            inputs: node.inputs.iter().map(|&i| &self.graph.node(i).ty).collect(),
            opset: self.options.opset,
            target: self.profile.target(),
            reads_constant: node
                .inputs
                .iter()
                .any(|&i| matches!(self.graph.node(i).op, Op::Parameter(_) | Op::Constant(_))),
        };
        let written = facts.onnx(&scope).map_err(unsupported)?;
        let float_type = if facts.wants_fp32() { FloatType::Fp32 } else { self.options.float_type };
        let transposed = written.iter().any(|part| part.inputs.contains(&OnnxInput::WeightTransposed));
        let layer = facts.layer().map(|layer| self.layer(node, layer, transposed)).transpose()?;
        // What the nodes make, one after the other.
        let mut made: Vec<String> = Vec::new();
        for (i, part) in written.iter().enumerate() {
            let name = part_name(node, i, written.len());
            let mut inputs = Vec::new();
            for input in &part.inputs {
                match input {
                    OnnxInput::Value(slot) => inputs.push(self.input_as(node, *slot, float_type).tensor),
                    OnnxInput::Values => {
                        let slots = 0..node.inputs.len();
                        inputs.extend(slots.map(|slot| self.input_as(node, slot, float_type).tensor));
                    }
                    OnnxInput::Made(earlier) => inputs.push(made[*earlier].clone()),
                    OnnxInput::Param(name) => inputs.push(self.parameter(name, float_type)?),
                    OnnxInput::Weight | OnnxInput::WeightTransposed | OnnxInput::Bias => {
                        let [weight, bias] = layer.clone().ok_or_else(|| {
                            unsupported("its ONNX node reads a layer's weight, and it is none".into())
                        })?;
                        inputs.push(if *input == OnnxInput::Bias { bias } else { weight });
                    }
                    OnnxInput::FirstRow(name, rows) => inputs.push(self.first_row(name, *rows)?),
                    OnnxInput::Number(value) => inputs.push(self.number(*value)?),
                    OnnxInput::Numbers(shape, values) => {
                        let numbers = self.free(&format!("{name}/{}", inputs.len()));
                        self.floats(&numbers, shape, values)?;
                        inputs.push(numbers);
                    }
                    OnnxInput::Ints(values) => inputs.push(self.whole_numbers(values)),
                }
            }
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let value = if i + 1 == written.len() { self.value_name(node) } else { self.free(&name) };
            self.op(part.op_type, &name, &inputs, &value, part.attributes.iter().map(attribute).collect());
            if float_type == FloatType::Fp32 {
                self.full.insert(value.clone());
            }
            made.push(value);
        }
        Ok(match facts.hands_on() {
            true => self.handed_on(node),
            false => Value { tensor: self.value_name(node), quantized: None },
        })
    }

    /// Whether all that read the value of an operator that cuts off are pairs that do it. ONNX Runtime's kernels for layers
    /// want no other operator before the pair, and OpenVINO's are faster without one.
    fn is_cut_off_behind(&self, node: &Node) -> bool {
        let Some([min, max]) = node.op.facts().cuts_off() else { return false };
        let reads = |n: &&Node| n.inputs.iter().any(|&i| std::ptr::eq(self.graph.node(i), node));
        let cuts = |reader: &Node| match &reader.op {
            Op::Quantize(q) => q.active && self.pair_cuts_off(q, max),
            _ => false,
        };
        let mut readers = self.graph.nodes.iter().filter(reads).peekable();
        let output = std::ptr::eq(self.graph.node(self.graph.output), node);
        min == 0.0 && !output && readers.peek().is_some() && readers.all(cuts)
    }

    /// Whether a quantizer's pair can cut off at 0 and `max`: codes with zero point 0 end at 0, and at any largest one where they
    /// are cut; where they are not, at that of their type.
    fn pair_cuts_off(&self, q: &Quantizer, max: f32) -> bool {
        let ends_with_the_type = || {
            let absmax = self.state.get(&range_key(&q.name)).and_then(|t| t.data.first());
            let scale = absmax.and_then(|&absmax| q.scheme.scale(absmax));
            scale.is_some_and(|scale| q.scheme.code(max, scale) == i64::from(u8::MAX))
        };
        self.profile.zero_point(q.scheme.sign) == ZeroPoint::Unsigned(0)
            && (self.profile.integer_neighbours() || ends_with_the_type())
    }

    /// The number at which the pair of a quantizer has to cut off because the operator before it was left out for that.
    pub(super) fn cut_off_before(&self, quantizer: &Node) -> Option<f32> {
        let before = self.graph.node(quantizer.inputs[0]);
        let [_, max] = before.op.facts().cuts_off()?;
        self.is_cut_off_behind(before).then_some(max)
    }

    /// Weight and bias of a layer, with BatchNorm folded in; the tensors to read.
    fn layer(&mut self, node: &Node, layer: &Layer, transposed: bool) -> Result<[String; 2], ExportError> {
        let missing = || ExportError::Missing(layer.weight.clone());
        let shape = self.graph.shapes().of(&layer.weight).ok_or_else(missing)?;
        let input = self.input(node, 0).quantized.filter(|_| layer.integer_bias).map(|q| q.scale);
        let folded = fold(self.state, layer, shape[0], input)?;
        match transposed {
            true => self.weights(node, layer, &[shape[1], shape[0]], folded.transposed(), 1),
            false => self.weights(node, layer, shape, folded, 0),
        }
    }

    /// A parameter in floating point as the first of so many rows.
    fn first_row(&mut self, name: &str, rows: usize) -> Result<String, ExportError> {
        let t = self.state.get(name).ok_or_else(|| ExportError::Missing(name.into()))?;
        let mut values = t.data.clone();
        values.resize(t.data.len() * rows, 0.0);
        let whole = self.free(&format!("{name}.rows"));
        self.floats(&whole, &[1, rows, t.data.len()], &values)?;
        Ok(whole)
    }

    /// A floating-point number; written once.
    fn number(&mut self, value: f32) -> Result<String, ExportError> {
        let (name, new) = self.shared(&format!("number/{value}"));
        if new {
            self.floats(&name, &[], &[value])?;
        }
        Ok(name)
    }

    /// Whole numbers in a row; written once.
    fn whole_numbers(&mut self, values: &[i64]) -> String {
        let texts: Vec<String> = values.iter().map(i64::to_string).collect();
        let (name, new) = self.shared(&format!("row/{}", texts.join("/")));
        if new {
            self.tensors.push(TensorProto::longs(&name, &[values.len()], values));
        }
        name
    }

    /// A parameter in this floating-point type; written once.
    fn parameter(&mut self, name: &str, float_type: FloatType) -> Result<String, ExportError> {
        let t = self.state.get(name).ok_or_else(|| ExportError::Missing(name.into()))?;
        if !self.tensors.iter().any(|t| t.name() == name) {
            self.floats_as(name, &t.shape, &t.data, float_type)?;
        }
        Ok(name.into())
    }
}

/// Name of the `i`th ONNX node of an operator that is `of` of them.
fn part_name(node: &Node, i: usize, of: usize) -> String {
    if i + 1 == of { node.name.clone() } else { format!("{}/{i}", node.name) }
}

fn attribute((name, value): &(&'static str, OnnxAttribute)) -> AttributeProto {
    match value {
        OnnxAttribute::Int(value) => AttributeProto::int(name, *value),
        OnnxAttribute::Ints(values) => AttributeProto::ints(name, values.clone()),
        OnnxAttribute::Float(value) => AttributeProto::float(name, *value),
    }
}
