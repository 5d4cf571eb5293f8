//! The graph as ONNX nodes. Values keep the names they have in the graph.

use super::fold::{FoldedWeights, fold};
use super::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, ValueInfoProto,
};
use super::table::range_key;
use super::{ExportError, Profile};
use crate::checkpoint::State;
use crate::graph::{Conv, Graph, Linear, Node, NodeId, Op, Quantizer};
use crate::quant::scheme::{Sign, step_of, weight_qmax};

/// Name of the input.
pub const INPUT: &str = "input";
/// Name of the output.
pub const OUTPUT: &str = "logits";

/// A written network.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The file.
    pub model: ModelProto,
    /// Convolutions and linear layers that stay in floating point, and why.
    pub fp32_nodes: Vec<(String, String)>,
}

/// How a value is quantized.
#[derive(Debug, Clone)]
struct Quantized {
    step: f32,
    /// Initializers that hold step and zero point.
    scale: String,
    zero_point: String,
}

/// A value: the tensor that holds it, and how it is quantized, if it comes out of a DequantizeLinear or of an
/// operator that hands such a value on.
#[derive(Debug, Clone)]
struct Value {
    tensor: String,
    quantized: Option<Quantized>,
}

struct Emitter<'a> {
    graph: &'a Graph,
    state: &'a State,
    profile: Profile,
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
    values: Vec<Value>,
    fp32_nodes: Vec<(String, String)>,
}

/// Writes `graph`, which has gone through the pass list for export (BatchNorm folded), with the numbers of `state`.
/// `metadata` goes into the file as it is.
pub fn emit(
    graph: &Graph,
    state: &State,
    profile: Profile,
    opset: i64,
    metadata: Vec<(String, String)>,
) -> Result<Exported, ExportError> {
    let ir_version = match opset {
        13..=17 => 8,
        18 | 19 => 9,
        20 | 21 => 10,
        other => return Err(ExportError::Opset(other)),
    };
    let mut e =
        Emitter { graph, state, profile, nodes: vec![], tensors: vec![], values: vec![], fp32_nodes: vec![] };
    for (id, node) in graph.iter() {
        let value = e.node(id, node)?;
        e.values.push(value);
    }
    let result = e.values[graph.output.0].tensor.clone();
    e.op("Identity", "output", &[&result], OUTPUT, vec![]);
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
        metadata_props: metadata.into_iter().map(entry).collect(),
    };
    Ok(Exported { model, fp32_nodes: e.fp32_nodes })
}

impl Emitter<'_> {
    fn op(
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

    fn input(&self, node: &Node, slot: usize) -> Value {
        self.values[node.inputs[slot].0].clone()
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

    /// An operator whose output is made of its input's codes.
    fn hand_on(&mut self, id: NodeId, op: &str, attributes: Vec<AttributeProto>) -> Value {
        let node = self.graph.node(id);
        let x = self.input(node, 0);
        self.op(op, &node.name, &[&x.tensor], &node.name, attributes);
        match x.quantized {
            Some(q) if self.profile.integer_neighbours() => {
                let tensor = self.pair(&node.name, &node.name, &q);
                Value { tensor, quantized: Some(q) }
            }
            quantized => Value { tensor: node.name.clone(), quantized },
        }
    }

    /// QuantizeLinear and DequantizeLinear behind `tensor`; returns the dequantized tensor.
    fn pair(&mut self, name: &str, tensor: &str, q: &Quantized) -> String {
        let (codes, back) = (format!("{name}.codes"), format!("{name}.dequantized"));
        self.op("QuantizeLinear", &format!("{name}.q"), &[tensor, &q.scale, &q.zero_point], &codes, vec![]);
        self.op("DequantizeLinear", &format!("{name}.dq"), &[&codes, &q.scale, &q.zero_point], &back, vec![]);
        back
    }

    fn quantize(&mut self, node: &Node, q: &Quantizer) -> Result<Value, ExportError> {
        let no_range = || ExportError::NoRange(q.name.clone());
        let absmax =
            *self.state.get(&range_key(&q.name)).and_then(|t| t.data.first()).ok_or_else(no_range)?;
        let step = step_of(absmax)
            .ok_or_else(|| ExportError::NotFinite { name: range_key(&q.name), value: absmax })?;
        let (scale, zero_point) = (format!("{}.scale", q.name), format!("{}.zero_point", q.name));
        self.tensors.push(TensorProto::floats(&scale, &[], &[step]));
        self.tensors.push(match (self.profile.integer_neighbours(), q.sign) {
            (true, Sign::Unsigned) => TensorProto::unsigned(&zero_point, &[], &[0]),
            (true, Sign::Signed) => TensorProto::unsigned(&zero_point, &[], &[128]),
            (false, _) => TensorProto::bytes(&zero_point, &[], &[0]),
        });
        let quantized = Quantized { step, scale, zero_point };
        let x = self.input(node, 0).tensor;
        let tensor = self.pair(&q.name, &x, &quantized);
        Ok(Value { tensor, quantized: Some(quantized) })
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
        let [w, b] = self.weights(node, &conv.weight, &shape, conv.quantized, folded);
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
        let [w, b] = self.weights(node, &linear.weight, &shape, linear.quantized, folded);
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

    /// Weight and bias of a layer; returns the names of the tensors to read.
    fn weights(
        &mut self,
        node: &Node,
        weight: &str,
        shape: &[usize],
        quantized: bool,
        mut folded: FoldedWeights,
    ) -> [String; 2] {
        let channels = shape[0];
        let bias = format!("{}.folded_bias", node.name);
        let input = self.input(node, 0).quantized;
        if !quantized || self.profile == Profile::Fp32 {
            if self.profile != Profile::Fp32 {
                self.fp32_nodes.push((node.name.clone(), "--qat-skip names it".into()));
            }
            self.tensors.push(TensorProto::floats(weight, shape, &folded.float));
            self.tensors.push(TensorProto::floats(&bias, &[channels], &folded.bias));
            return [weight.into(), bias];
        }
        let mut bias_tensor = bias.clone();
        match input.filter(|_| self.profile.integer_neighbours()) {
            Some(input) => {
                let (codes, scales) = folded.integer_bias(input.step);
                let (name, scale, zero) =
                    (format!("{bias}.codes"), format!("{bias}.scale"), format!("{bias}.zero_point"));
                self.tensors.push(TensorProto::integers(&name, &[channels], &codes));
                self.tensors.push(TensorProto::floats(&scale, &[channels], &scales));
                self.tensors.push(TensorProto::integers(&zero, &[channels], &vec![0; channels]));
                bias_tensor = format!("{bias}.dequantized");
                let axis = vec![AttributeProto::int("axis", 0)];
                self.op(
                    "DequantizeLinear",
                    &format!("{bias}.dq"),
                    &[&name, &scale, &zero],
                    &bias_tensor,
                    axis,
                );
            }
            None => self.tensors.push(TensorProto::floats(&bias, &[channels], &folded.bias)),
        }
        let names =
            ["codes", "scale", "zero_point", "dequantized", "dq"].map(|part| format!("{weight}.{part}"));
        let [codes, scale, zero, back, dq] = &names;
        self.tensors.push(TensorProto::bytes(codes, shape, &folded.codes));
        self.tensors.push(TensorProto::floats(scale, &[channels], &folded.scales));
        self.tensors.push(TensorProto::bytes(zero, &[channels], &vec![0; channels]));
        self.op("DequantizeLinear", dq, &[codes, scale, zero], back, vec![AttributeProto::int("axis", 0)]);
        [back.clone(), bias_tensor]
    }
}
