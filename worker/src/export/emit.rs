//! The graph as ONNX nodes. Values keep the names they have in the graph.

use super::float::halves;
use super::fold::{FoldedWeights, fold};
use super::onnx::{
    AttributeProto, FLOAT, FLOAT16, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, ValueInfoProto,
};
use super::table::range_key;
use super::{ExportError, FloatType, Profile};
use crate::checkpoint::State;
use crate::graph::{Conv, Graph, Linear, Node, NodeId, Op, Quantizer};
use crate::quant::scheme::{Sign, step_of, weight_qmax};
use std::collections::BTreeSet;

/// Name of the input.
pub const INPUT: &str = "input";
/// Name of the output.
pub const OUTPUT: &str = "logits";

/// Largest code of training, where a file's own type reaches further.
const MAX_CODE: &str = "max_code";

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

/// How a value is quantized.
#[derive(Debug, Clone)]
struct Quantized {
    step: f32,
    /// Whether the step is FP16.
    half: bool,
    /// Unsigned codes with zero point 0: 128 to 255 are not codes of training, which ends at 127, and are clipped.
    wide: bool,
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
    options: Options,
    /// FP32 tensors of an FP16 file.
    full: BTreeSet<String>,
    /// Tensors already cast, by the name of the result.
    casts: BTreeSet<String>,
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

    /// A value an operator reads, in the type of the file.
    fn input(&mut self, node: &Node, slot: usize) -> Value {
        let value = self.values[node.inputs[slot].0].clone();
        let tensor = self.cast(&value.tensor, self.options.float_type);
        Value { tensor, ..value }
    }

    /// The tensor in this type; a cast is written once.
    fn cast(&mut self, tensor: &str, to: FloatType) -> String {
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
    fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<(), ExportError> {
        let tensor = match self.options.float_type {
            FloatType::Fp32 => TensorProto::floats(name, dims, values),
            FloatType::Fp16 => TensorProto::halves(name, dims, halves(name, values)?),
        };
        self.tensors.push(tensor);
        Ok(())
    }

    /// Steps of a Q/DQ pair, in FP16 where runtime and steps allow; returns whether they are.
    fn steps(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Result<bool, ExportError> {
        let half = self.options.float_type.half_steps(self.profile, values);
        match half {
            true => self.floats(name, dims, values)?,
            false => self.tensors.push(TensorProto::floats(name, dims, values)),
        }
        Ok(half)
    }

    /// DequantizeLinear to `back`, whose type is that of the steps.
    fn dequantize(&mut self, name: &str, inputs: [&str; 3], back: &str, axis: Option<i64>, half: bool) {
        if !half {
            self.full.insert(back.into());
        }
        let axis = axis.map(|axis| AttributeProto::int("axis", axis)).into_iter().collect();
        self.op("DequantizeLinear", name, &inputs, back, axis);
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
        let (mut codes, back) = (format!("{name}.codes"), format!("{name}.dequantized"));
        let x = self.cast(tensor, if q.half { FloatType::Fp16 } else { FloatType::Fp32 });
        self.op("QuantizeLinear", &format!("{name}.q"), &[&x, &q.scale, &q.zero_point], &codes, vec![]);
        if q.wide {
            let clipped = format!("{name}.clipped");
            self.op("Clip", &format!("{name}.clip"), &[&codes, "", MAX_CODE], &clipped, vec![]);
            codes = clipped;
            if !self.tensors.iter().any(|t| t.name == MAX_CODE) {
                self.tensors.push(TensorProto::unsigned(MAX_CODE, &[], &[127]));
            }
        }
        self.dequantize(&format!("{name}.dq"), [&codes, &q.scale, &q.zero_point], &back, None, q.half);
        back
    }

    fn quantize(&mut self, node: &Node, q: &Quantizer) -> Result<Value, ExportError> {
        let no_range = || ExportError::NoRange(q.name.clone());
        let absmax =
            *self.state.get(&range_key(&q.name)).and_then(|t| t.data.first()).ok_or_else(no_range)?;
        let step = step_of(absmax)
            .ok_or_else(|| ExportError::NotFinite { name: range_key(&q.name), value: absmax })?;
        let (scale, zero_point) = (format!("{}.scale", q.name), format!("{}.zero_point", q.name));
        let half = self.steps(&scale, &[], &[step])?;
        self.tensors.push(match (self.profile.integer_neighbours(), q.sign) {
            (true, Sign::Unsigned) => TensorProto::unsigned(&zero_point, &[], &[0]),
            (true, Sign::Signed) => TensorProto::unsigned(&zero_point, &[], &[128]),
            (false, _) => TensorProto::bytes(&zero_point, &[], &[0]),
        });
        let wide = self.profile.integer_neighbours() && q.sign == Sign::Unsigned;
        let quantized = Quantized { step, half, wide, scale, zero_point };
        let x = self.values[node.inputs[0].0].tensor.clone();
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

    /// Weight and bias of a layer; returns the names of the tensors to read.
    fn weights(
        &mut self,
        node: &Node,
        weight: &str,
        shape: &[usize],
        quantized: bool,
        mut folded: FoldedWeights,
    ) -> Result<[String; 2], ExportError> {
        let channels = shape[0];
        let bias = format!("{}.folded_bias", node.name);
        let input = self.input(node, 0).quantized;
        if !quantized || self.profile == Profile::Fp32 {
            if self.profile != Profile::Fp32 {
                self.fp32_nodes.push((node.name.clone(), "--qat-skip names it".into()));
            }
            self.floats(weight, shape, &folded.float)?;
            self.floats(&bias, &[channels], &folded.bias)?;
            return Ok([weight.into(), bias]);
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
                self.dequantize(&format!("{bias}.dq"), [&name, &scale, &zero], &bias_tensor, Some(0), false);
            }
            None => self.floats(&bias, &[channels], &folded.bias)?,
        }
        let names =
            ["codes", "scale", "zero_point", "dequantized", "dq"].map(|part| format!("{weight}.{part}"));
        let [codes, scale, zero, back, dq] = &names;
        self.tensors.push(TensorProto::bytes(codes, shape, &folded.codes));
        let half = self.steps(scale, &[channels], &folded.scales)?;
        self.tensors.push(TensorProto::bytes(zero, &[channels], &vec![0; channels]));
        self.dequantize(dq, [codes, scale, zero], back, Some(0), half);
        Ok([self.cast(back, self.options.float_type), bias_tensor])
    }
}
