//! The graph as ONNX nodes. Values keep the names they have in the graph.

use super::float::halves;
use super::fold::fold;
use super::onnx::{
    AttributeProto, FLOAT, FLOAT16, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, ValueInfoProto,
};
use super::qdq::Quantized;
use super::{ExportError, FloatType, Profile};
use crate::checkpoint::State;
use crate::graph::{Conv, Graph, Linear, Node, NodeId, Op};
use crate::quant::scheme::weight_qmax;
use std::collections::{BTreeMap, BTreeSet};

/// Name of the input.
pub const INPUT: &str = "input";
/// Name of the output.
pub const OUTPUT: &str = "logits";

fn cast_to(code: i32) -> AttributeProto {
    AttributeProto::int("to", i64::from(code))
}

/// A written network.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The file.
    pub model: ModelProto,
    /// Convolutions and linear layers that stay in floating point, and why.
    pub fp32_nodes: Vec<(String, String)>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Runtime it is for.
    pub profile: Profile,
    /// ONNX operator set, 13 to 21.
    pub opset: i64,
    /// Type of floating-point values.
    pub float_type: FloatType,
}

/// A value: the tensor that holds it, and how it is quantized, if it comes out of a DequantizeLinear or of an
/// operator that hands such a value on.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) tensor: String,
    pub(super) quantized: Option<Quantized>,
}

/// A file being written.
pub(super) struct Emitter<'a> {
    pub(super) graph: &'a Graph,
    pub(super) state: &'a State,
    pub(super) profile: Profile,
    pub(super) options: Options,
    /// FP32 tensors of an FP16 file.
    pub(super) full: BTreeSet<String>,
    /// Tensors already cast, by the name of the result.
    casts: BTreeSet<String>,
    nodes: Vec<NodeProto>,
    pub(super) tensors: Vec<TensorProto>,
    pub(super) values: Vec<Value>,
    pub(super) fp32_nodes: Vec<(String, String)>,
}

/// Writes `graph`, which has gone through the pass list for export (BatchNorm folded), with the numbers of `state`.
/// `metadata` goes into the file as it is; the layers that stay in floating point are added to it as `octrain.fp32_layers`,
/// a JSON object of names and reasons.
pub fn emit(
    graph: &Graph,
    state: &State,
    options: Options,
    metadata: Vec<(String, String)>,
) -> Result<Exported, ExportError> {
    let Options { profile, opset, .. } = options;
    let ir_version = match opset {
        13..=17 => 8,
        18 | 19 => 9,
        20 | 21 => 10,
        other => return Err(ExportError::Opset(other)),
    };
    options.float_type.check(profile, opset)?;
    let mut e = Emitter {
        graph,
        state,
        profile,
        options,
        full: BTreeSet::from([INPUT.to_string()]),
        casts: BTreeSet::new(),
        nodes: vec![],
        tensors: vec![],
        values: vec![],
        fp32_nodes: vec![],
    };
    for (id, node) in graph.iter() {
        let value = e.node(id, node)?;
        e.values.push(value);
    }
    let result = e.values[graph.output.0].tensor.clone();
    match options.float_type {
        FloatType::Fp32 => e.op("Identity", "output", &[&result], OUTPUT, vec![]),
        FloatType::Fp16 => e.op("Cast", "output", &[&result], OUTPUT, vec![cast_to(FLOAT)]),
    }
    let fp32: BTreeMap<&str, &str> =
        e.fp32_nodes.iter().map(|(node, why)| (node.as_str(), why.as_str())).collect();
    let fp32 = serde_json::to_string(&fp32).expect("names and reasons are text");
    let metadata = metadata.into_iter().chain([("octrain.fp32_layers".to_string(), fp32)]);
    let entry = |(key, value)| StringStringEntryProto { key, value };
    let model = ModelProto {
        ir_version,
        producer_name: "octrain".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(GraphProto {
            node: e.nodes,
            name: graph.name.clone(),
            initializer: e.tensors,
            input: vec![ValueInfoProto::batch(INPUT, &graph.node(graph.input()).ty.shape)],
            output: vec![ValueInfoProto::batch(OUTPUT, &graph.node(graph.output).ty.shape)],
        }),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        metadata_props: metadata.map(entry).collect(),
    };
    Ok(Exported { model, fp32_nodes: e.fp32_nodes })
}

impl Emitter<'_> {
    pub(super) fn op(
        &mut self,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: vec![output.into()],
            name: name.into(),
            op_type: op_type.into(),
            attribute,
        });
    }

    /// A value an operator reads, in the type of the file.
    pub(super) fn input(&mut self, node: &Node, slot: usize) -> Value {
        let value = self.values[node.inputs[slot].0].clone();
        let tensor = self.cast(&value.tensor, self.options.float_type);
        Value { tensor, ..value }
    }

    /// The tensor in this type; a cast is written once.
    pub(super) fn cast(&mut self, tensor: &str, to: FloatType) -> String {
        let is = match self.options.float_type {
            FloatType::Fp16 if !self.full.contains(tensor) => FloatType::Fp16,
            _ => FloatType::Fp32,
        };
        if is == to {
            return tensor.into();
        }
        let (name, code) = match to {
            FloatType::Fp32 => (format!("{tensor}.fp32"), FLOAT),
            FloatType::Fp16 => (format!("{tensor}.fp16"), FLOAT16),
        };
        if self.casts.insert(name.clone()) {
            self.op("Cast", &name, &[tensor], &name, vec![cast_to(code)]);
        }
        if to == FloatType::Fp32 {
            self.full.insert(name.clone());
        }
        name
    }

    /// Floating-point numbers in the type of the file.
    pub(super) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<(), ExportError> {
        let tensor = match self.options.float_type {
            FloatType::Fp32 => TensorProto::floats(name, dims, values),
            FloatType::Fp16 => TensorProto::halves(name, dims, halves(name, values)?),
        };
        self.tensors.push(tensor);
        Ok(())
    }

    fn node(&mut self, id: NodeId, node: &Node) -> Result<Value, ExportError> {
        let unsupported =
            |why| Err(ExportError::Unsupported { node: node.name.clone(), op: node.op.kind(), why });
        let name = node.name.as_str();
        let plain = |tensor: &str| Ok(Value { tensor: tensor.into(), quantized: None });
        match &node.op {
            Op::Input => plain(INPUT),
            Op::Conv(conv) => {
                self.conv(node, conv)?;
                plain(name)
            }
            Op::Linear(linear) => {
                self.linear(node, linear)?;
                plain(name)
            }
            Op::BatchNorm(_) => unsupported("it must be folded first (pass fold-batch-norm)"),
            Op::Cast(_) => unsupported("files hold FP32 values; amp-cast must be off for export"),
            Op::Relu => {
                let x = self.input(node, 0).tensor;
                self.op("Relu", name, &[&x], name, vec![]);
                plain(name)
            }
            Op::Add => {
                let (a, b) = (self.input(node, 0).tensor, self.input(node, 1).tensor);
                self.op("Add", name, &[&a, &b], name, vec![]);
                plain(name)
            }
            Op::Concat => {
                let inputs: Vec<String> =
                    (0..node.inputs.len()).map(|slot| self.input(node, slot).tensor).collect();
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                self.op("Concat", name, &inputs, name, vec![AttributeProto::int("axis", 1)]);
                plain(name)
            }
            Op::Sigmoid => {
                let x = self.input(node, 0).tensor;
                self.op("Sigmoid", name, &[&x], name, vec![]);
                plain(name)
            }
            Op::GlobalAvgPool => {
                let x = self.input(node, 0).tensor;
                self.op("GlobalAveragePool", name, &[&x], name, vec![]);
                plain(name)
            }
            Op::MaxPool(w) => {
                let attributes = vec![
                    AttributeProto::ints("kernel_shape", &[w.kernel; 2]),
                    AttributeProto::ints("strides", &[w.stride; 2]),
                    AttributeProto::ints("pads", &[w.padding; 4]),
                ];
                Ok(self.hand_on(id, "MaxPool", attributes))
            }
            Op::Flatten => Ok(self.hand_on(id, "Flatten", vec![AttributeProto::int("axis", 1)])),
            Op::Quantize(q) if q.active => self.quantize(node, q),
            Op::Quantize(_) => Ok(self.input(node, 0)),
        }
    }

    fn conv(&mut self, node: &Node, conv: &Conv) -> Result<(), ExportError> {
        let shape = self.shape(&conv.weight)?;
        let folded = fold(
            self.state,
            &conv.weight,
            conv.bias.as_deref(),
            conv.folded.as_ref(),
            shape[0],
            self.qmax(),
        )?;
        let [w, b] = self.weights(node, &conv.weight, &shape, conv.quantized, folded)?;
        let x = self.input(node, 0).tensor;
        let [ph, pw] = conv.padding;
        let attributes = vec![
            AttributeProto::ints("kernel_shape", &shape[2..]),
            AttributeProto::ints("strides", &conv.stride),
            AttributeProto::ints("pads", &[ph, pw, ph, pw]),
            AttributeProto::ints("dilations", &[1, 1]),
            AttributeProto::int("group", conv.groups as i64),
        ];
        self.op("Conv", &node.name, &[&x, &w, &b], &node.name, attributes);
        Ok(())
    }

    fn linear(&mut self, node: &Node, linear: &Linear) -> Result<(), ExportError> {
        let shape = self.shape(&linear.weight)?;
        let folded = fold(self.state, &linear.weight, linear.bias.as_deref(), None, shape[0], self.qmax())?;
        let [w, b] = self.weights(node, &linear.weight, &shape, linear.quantized, folded)?;
        let x = self.input(node, 0).tensor;
        self.op("Gemm", &node.name, &[&x, &w, &b], &node.name, vec![AttributeProto::int("transB", 1)]);
        Ok(())
    }

    fn qmax(&self) -> i64 {
        weight_qmax(self.graph.weight_bits)
    }

    fn shape(&self, weight: &str) -> Result<Vec<usize>, ExportError> {
        let param = self.graph.param(weight).ok_or_else(|| ExportError::Missing(weight.into()))?;
        Ok(param.shape.clone())
    }
}
