//! A file being written: its nodes and tensors, and the type each value has.

use super::float::halves;
use super::{ExportError, FloatType, Profile};
use crate::checkpoint::State;
use crate::graph::{Graph, Node, Op};
use octrain_formats::onnx::proto::tensor_proto::DataType;
use octrain_formats::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};
use std::collections::{BTreeMap, BTreeSet};

/// Name of the input.
pub const INPUT: &str = "input";
/// Name of the output.
pub const OUTPUT: &str = "logits";

fn cast_to(element: DataType) -> AttributeProto {
    AttributeProto::int("to", i64::from(i32::from(element)))
}

/// Gives every node a name of its own. A QuantizeLinear keeps its name, by which `verify` knows the value that it quantizes,
/// and the graph's nodes keep theirs, by which layers are known among an engine's.
fn name_apart(nodes: &mut [NodeProto], graph: &Graph) {
    let own: BTreeSet<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
    let rank = |node: &NodeProto| match node.op_type() {
        "QuantizeLinear" => 0,
        _ if own.contains(node.name()) => 1,
        _ => 2,
    };
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|&i| rank(&nodes[i]));
    let mut taken = BTreeSet::new();
    for i in order {
        nodes[i].name = Some(free(&mut taken, nodes[i].name()));
    }
}

/// A name that is not taken yet, and is then: this one, or with a number behind it.
fn free(taken: &mut BTreeSet<String>, wanted: &str) -> String {
    let (mut name, mut number) = (wanted.to_string(), 2);
    while !taken.insert(name.clone()) {
        name = format!("{wanted}_{number}");
        number += 1;
    }
    name
}

/// A written network.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The file.
    pub model: ModelProto,
    /// What stays in floating point though products around it are quantized, and why: layers that are skipped, and operators
    /// that no target computes in integers.
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

/// How a value is quantized.
#[derive(Debug, Clone)]
pub(super) struct Quantized {
    pub(super) scale: f32,
    /// Whether the scale is FP16.
    pub(super) half: bool,
    /// The largest code, where the type of the codes reaches further, which is then clipped: unsigned ones with zero point 0
    /// end at 127 in a reduced range, and behind a Clip (ReLU6) where its maximum's code is.
    pub(super) clip: Option<u8>,
    /// The same in floating point, before codes are made: an initializer that holds what the largest code stands for.
    pub(super) largest_tensor: Option<String>,
    /// Initializers that hold scale and zero point.
    pub(super) scale_tensor: String,
    pub(super) zero_point_tensor: String,
}

/// A value: the tensor that holds it, and how it is quantized, if it comes out of a DequantizeLinear or of an
/// operator that hands such a value on.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) tensor: String,
    pub(super) quantized: Option<Quantized>,
}

/// A file being written.
pub(super) struct Writer<'a> {
    pub(super) graph: &'a Graph,
    pub(super) state: &'a State,
    pub(super) profile: Profile,
    pub(super) options: Options,
    ir_version: i64,
    /// FP32 tensors of an FP16 file.
    pub(super) full: BTreeSet<String>,
    /// Names that something in the file has: a file has one name space for what nodes make and what is stored in it.
    taken: BTreeSet<String>,
    /// Names of what nodes make, by those of the graph's nodes, where another has theirs.
    renamed: BTreeMap<&'a str, String>,
    /// Names of what is written once, by what it is.
    shared: BTreeMap<String, String>,
    nodes: Vec<NodeProto>,
    pub(super) tensors: Vec<TensorProto>,
    pub(super) values: Vec<Value>,
    pub(super) fp32_nodes: Vec<(String, String)>,
}

impl<'a> Writer<'a> {
    /// An empty file; options that do not go together are an error.
    pub(super) fn new(graph: &'a Graph, state: &'a State, options: Options) -> Result<Self, ExportError> {
        let Options { profile, opset, .. } = options;
        let ir_version = match opset {
            13..=17 => 8,
            18 | 19 => 9,
            20 | 21 => 10,
            other => return Err(ExportError::Opset(other)),
        };
        options.float_type.check(profile, opset)?;
        let ends = [INPUT, OUTPUT].map(String::from);
        let mut writer = Self {
            graph,
            state,
            profile,
            options,
            ir_version,
            full: BTreeSet::from([INPUT.to_string()]),
            taken: ends.into_iter().chain(graph.params.iter().map(|p| p.name.clone())).collect(),
            renamed: BTreeMap::new(),
            shared: BTreeMap::new(),
            nodes: vec![],
            tensors: vec![],
            values: vec![],
            fp32_nodes: vec![],
        };
        // Networks of others name their nodes as they like: like their parameters, or like the file's own ends.
        for node in graph.nodes.iter().filter(|node| !matches!(node.op, Op::Input)) {
            let name = writer.free(&node.name);
            if name != node.name {
                writer.renamed.insert(&node.name, name);
            }
        }
        Ok(writer)
    }

    /// A name that nothing else in the file has: this one, or with a number behind it.
    pub(super) fn free(&mut self, wanted: &str) -> String {
        free(&mut self.taken, wanted)
    }

    /// The name in the file of what a node of the graph makes.
    pub(super) fn value_name(&self, node: &Node) -> String {
        self.renamed.get(node.name.as_str()).unwrap_or(&node.name).clone()
    }

    /// The name of what is written once, and whether it is still to be written.
    pub(super) fn shared(&mut self, what: &str) -> (String, bool) {
        if let Some(name) = self.shared.get(what) {
            return (name.clone(), false);
        }
        let name = self.free(what);
        self.shared.insert(what.into(), name.clone());
        (name, true)
    }

    /// The file, once all nodes of the graph are in it.
    pub(super) fn finish(mut self, metadata: Vec<(String, String)>) -> Exported {
        let result = self.values[self.graph.output.0].tensor.clone();
        match self.options.float_type {
            FloatType::Fp32 => self.op("Identity", "output", &[&result], OUTPUT, vec![]),
            FloatType::Fp16 => self.op("Cast", "output", &[&result], OUTPUT, vec![cast_to(DataType::Float)]),
        }
        name_apart(&mut self.nodes, self.graph);
        let fp32: BTreeMap<&str, &str> =
            self.fp32_nodes.iter().map(|(node, why)| (node.as_str(), why.as_str())).collect();
        let fp32 = serde_json::to_string(&fp32).expect("names and reasons are text");
        let own = [
            ("octrain.version", env!("CARGO_PKG_VERSION").to_string()),
            ("octrain.profile", self.options.profile.name().into()),
            ("octrain.float_type", self.options.float_type.name().into()),
            ("octrain.fp32_layers", fp32),
        ];
        let metadata = metadata.into_iter().chain(own.map(|(key, value)| (key.to_string(), value)));
        let shape = |id| &self.graph.node(id).ty.shape;
        let graph = GraphProto {
            node: self.nodes,
            name: Some(self.graph.name.clone()),
            initializer: self.tensors,
            input: vec![ValueInfoProto::batch(INPUT, shape(self.graph.input()))],
            output: vec![ValueInfoProto::batch(OUTPUT, shape(self.graph.output))],
            ..GraphProto::default()
        };
        let model = ModelProto {
            ir_version: Some(self.ir_version),
            producer_name: Some("octrain".into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            metadata_props: metadata.map(|(key, value)| StringStringEntryProto::new(key, value)).collect(),
            ..ModelProto::new(graph, self.options.opset)
        };
        Exported { model, fp32_nodes: self.fp32_nodes }
    }

    pub(super) fn op(
        &mut self,
        op_type: &str,
        name: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto::new(op_type, name, inputs, output, attribute));
    }

    /// A value an operator reads, in the type of the file.
    pub(super) fn input(&mut self, node: &Node, slot: usize) -> Value {
        self.input_as(node, slot, self.options.float_type)
    }

    /// A value an operator reads, in this type.
    pub(super) fn input_as(&mut self, node: &Node, slot: usize, to: FloatType) -> Value {
        let value = self.values[node.inputs[slot].0].clone();
        let tensor = self.cast(&value.tensor, to);
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
        let (name, element) = match to {
            FloatType::Fp32 => (format!("{tensor}.fp32"), DataType::Float),
            FloatType::Fp16 => (format!("{tensor}.fp16"), DataType::Float16),
        };
        let (name, new) = self.shared(&name);
        if new {
            self.op("Cast", &name, &[tensor], &name, vec![cast_to(element)]);
        }
        if to == FloatType::Fp32 {
            self.full.insert(name.clone());
        }
        name
    }

    /// Floating-point numbers in the type of the file.
    pub(super) fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<(), ExportError> {
        self.floats_as(name, dims, values, self.options.float_type)
    }

    /// Floating-point numbers in this type.
    pub(super) fn floats_as(
        &mut self,
        name: &str,
        dims: &[usize],
        values: &[f32],
        float_type: FloatType,
    ) -> Result<(), ExportError> {
        let tensor = match float_type {
            FloatType::Fp32 => TensorProto::floats(name, dims, values),
            FloatType::Fp16 => TensorProto::halves(name, dims, halves(name, values)?),
        };
        self.tensors.push(tensor);
        Ok(())
    }
}
