//! The graph as ONNX nodes. Values keep the names they have in the graph.

use super::ExportError;
use super::fold::fold;
use super::onnx::AttributeProto;
use super::writer::{Exported, INPUT, Options, Value, Writer};
use crate::checkpoint::State;
use crate::graph::{Conv, Graph, Linear, Node, NodeId, Op};
use crate::quant::scheme::weight_qmax;

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
    for (id, node) in graph.iter() {
        let value = w.node(id, node)?;
        w.values.push(value);
    }
    Ok(w.finish(metadata))
}

impl Writer<'_> {
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
