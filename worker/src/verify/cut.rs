//! A quantized file cut into layers, so that each can be fed what training feeds it.
//!
//! A layer ends in a QuantizeLinear of an activation and begins at the DequantizeLinear of the activations before it.
//! Their Q/DQ pairs are part of the cut network, which therefore runs in INT8 as the whole does; its inputs are the
//! FP32 tensors that those pairs quantize. The last layer ends in the logits.
//!
//! What a pair makes is an output of the cut network too: another layer reads it in the whole network. Without that
//! reader OpenVINO moves the stride of a 1x1 convolution before the pair, and the layer then runs in FP32.

use crate::export::OUTPUT;
use half::f16;
use octrain_formats::onnx::proto::tensor_proto::DataType;
use octrain_formats::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use std::collections::{BTreeMap, BTreeSet};

/// Name of the layer that ends in the file's output, which alone has no scale: a quantized value may have the same name.
pub const LOGITS: &str = OUTPUT;

/// A file that is not cut.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the file cannot be cut into layers: {0}; was it written by `octrain export`?")]
pub struct CutError(String);

/// An input of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fed {
    /// Name of the cut network's input.
    pub tensor: String,
    /// The value of the training graph that belongs there.
    pub value: String,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The value of the training graph that it makes, or [`LOGITS`].
    pub name: String,
    /// Scale of its output; none for the logits.
    pub scale: Option<f32>,
    /// What it reads.
    pub inputs: Vec<Fed>,
    /// Name of its output.
    out: String,
    nodes: Vec<NodeProto>,
    tensors: Vec<TensorProto>,
    /// Outputs besides the first, each as large as the input at this position.
    seen: Vec<(String, usize)>,
    frame: ModelProto,
}

impl Cut {
    /// The layer as a network of fixed shapes, batch included; its first output is the layer's.
    pub fn network(&self, inputs: &[Vec<usize>], output: &[usize]) -> ModelProto {
        let fed = self.inputs.iter().zip(inputs);
        let seen = self.seen.iter().map(|(name, input)| ValueInfoProto::fixed(name, &inputs[*input]));
        ModelProto {
            graph: Some(GraphProto {
                node: self.nodes.clone(),
                name: Some(self.name.clone()),
                initializer: self.tensors.clone(),
                input: fed.map(|(fed, shape)| ValueInfoProto::fixed(&fed.tensor, shape)).collect(),
                output: std::iter::once(ValueInfoProto::fixed(&self.out, output)).chain(seen).collect(),
                ..GraphProto::default()
            }),
            ..self.frame.clone()
        }
    }
}

/// All layers of a file, in its order; the logits last.
pub fn cuts(model: &ModelProto) -> Result<Vec<Cut>, CutError> {
    let graph = model.graph.as_ref().ok_or_else(|| CutError("it has no graph".into()))?;
    let ([input], [output]) = (&graph.input[..], &graph.output[..]) else {
        return Err(CutError("it does not have one input and one output".into()));
    };
    let frame = ModelProto { graph: None, metadata_props: Vec::new(), ..model.clone() };
    let file = File {
        nodes: &graph.node,
        input: input.name(),
        makers: graph
            .node
            .iter()
            .enumerate()
            .flat_map(|(i, n)| n.output.iter().map(move |o| (o.as_str(), i)))
            .collect(),
        tensors: graph.initializer.iter().map(|t| (t.name(), t)).collect(),
        frame,
    };
    let mut cuts = Vec::new();
    for (i, node) in graph.node.iter().enumerate() {
        if let Some(q) = file.pair(i) {
            cuts.push(file.cut(value_of(&graph.node[q])?, &node.output[0], Some(i))?);
        }
    }
    cuts.push(file.cut(LOGITS, output.name(), None)?);
    Ok(cuts)
}

/// The value that a QuantizeLinear of the exporter quantizes.
fn value_of(q: &NodeProto) -> Result<&str, CutError> {
    q.name()
        .strip_suffix(".q")
        .ok_or_else(|| CutError(format!("QuantizeLinear `{}` has another name", q.name())))
}

struct File<'a> {
    nodes: &'a [NodeProto],
    input: &'a str,
    makers: BTreeMap<&'a str, usize>,
    tensors: BTreeMap<&'a str, &'a TensorProto>,
    frame: ModelProto,
}

/// What a walk back from a tensor has found.
#[derive(Default)]
struct Found {
    nodes: BTreeSet<usize>,
    /// QuantizeLinear nodes at which it stopped, with the DequantizeLinear that reads each.
    edges: BTreeMap<usize, usize>,
    tensors: BTreeSet<String>,
    /// Whether it came to the file's own input.
    input: bool,
}

impl File<'_> {
    /// The node that makes a tensor.
    fn maker(&self, tensor: &str) -> Option<usize> {
        self.makers.get(tensor).copied()
    }

    /// The QuantizeLinear whose codes the DequantizeLinear `dq` reads, at once or clipped; none if it is not one of
    /// activations.
    fn pair(&self, dq: usize) -> Option<usize> {
        if self.nodes[dq].op_type() != "DequantizeLinear" {
            return None;
        }
        let mut before = self.maker(&self.nodes[dq].input[0])?;
        if self.nodes[before].op_type() == "Clip" {
            before = self.maker(&self.nodes[before].input[0])?;
        }
        (self.nodes[before].op_type() == "QuantizeLinear").then_some(before)
    }

    /// A name that nothing in the file has: this one, or a longer one.
    fn free(&self, mut name: String) -> String {
        let node = |name: &str| self.nodes.iter().any(|node| node.name() == name);
        while self.maker(&name).is_some()
            || self.tensors.contains_key(name.as_str())
            || name == self.input
            || node(&name)
        {
            name.push('_');
        }
        name
    }

    fn scale(&self, q: usize) -> Result<(f32, DataType), CutError> {
        let scale = self.tensors.get(self.nodes[q].input[1].as_str());
        let of = |t: &TensorProto| match (DataType::try_from(t.data_type()), t.raw_data()) {
            (Ok(DataType::Float), &[a, b, c, d]) => Some((f32::from_le_bytes([a, b, c, d]), DataType::Float)),
            (Ok(DataType::Float16), &[a, b]) => {
                Some((f16::from_le_bytes([a, b]).to_f32(), DataType::Float16))
            }
            _ => None,
        };
        let scale = scale.and_then(|t| of(t));
        scale.ok_or_else(|| CutError(format!("`{}` has no scale of one number", self.nodes[q].name())))
    }

    /// Walks back from a tensor to the pairs before it. `first` is the pair's own DequantizeLinear, which does not
    /// end the walk.
    fn walk(&self, from: &str, first: Option<usize>) -> Result<Found, CutError> {
        let mut found = Found::default();
        let mut left = vec![from.to_string()];
        while let Some(tensor) = left.pop() {
            let Some(i) = self.maker(&tensor) else {
                if tensor == self.input {
                    found.input = true;
                } else if self.tensors.contains_key(tensor.as_str()) {
                    found.tensors.insert(tensor);
                } else if !tensor.is_empty() {
                    return Err(CutError(format!("nothing makes `{tensor}`")));
                }
                continue;
            };
            if !found.nodes.insert(i) {
                continue;
            }
            let node = &self.nodes[i];
            let edge = self.pair(i).filter(|_| first != Some(i));
            left.extend(node.input.iter().cloned());
            if let Some(q) = edge {
                // All that lies between the two of the pair, but nothing before it.
                let clip = self.maker(&node.input[0]).filter(|&c| c != q);
                found.nodes.extend([q].into_iter().chain(clip));
                found.edges.insert(q, i);
                for inside in [Some(q), clip].into_iter().flatten() {
                    left.extend(self.nodes[inside].input[1..].iter().cloned());
                }
            }
        }
        Ok(found)
    }

    fn cut(&self, name: &str, tensor: &str, pair: Option<usize>) -> Result<Cut, CutError> {
        let found = self.walk(tensor, pair)?;
        let (mut nodes, mut inputs, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        if found.input {
            inputs.push(Fed { tensor: self.input.into(), value: self.input.into() });
        }
        for &i in &found.nodes {
            let mut node = self.nodes[i].clone();
            if let Some(&dq) = found.edges.get(&i) {
                let value = value_of(&node)?.to_string();
                let fed = self.free(format!("{value}.fed"));
                node.input[0] = fed.clone();
                if self.scale(i)?.1 == DataType::Float16 {
                    node.input[0] = self.free(format!("{value}.fed.fp16"));
                    nodes.push(cast(&fed, &node.input[0], DataType::Float16));
                }
                seen.push((dq, self.free(format!("{value}.seen")), inputs.len()));
                inputs.push(Fed { tensor: fed, value });
            }
            nodes.push(node);
        }
        // FP32 whatever the type of the file; nothing where it is FP32.
        nodes
            .extend(seen.iter().map(|(dq, name, _)| cast(&self.nodes[*dq].output[0], name, DataType::Float)));
        let out = self.free("out".into());
        nodes.push(cast(tensor, &out, DataType::Float));
        let scale =
            pair.and_then(|dq| self.pair(dq)).map(|q| self.scale(q)).transpose()?.map(|(scale, _)| scale);
        let tensors = found.tensors.iter().map(|t| self.tensors[t.as_str()].clone()).collect();
        let seen = seen.into_iter().map(|(_, name, input)| (name, input)).collect();
        Ok(Cut { name: name.into(), scale, inputs, out, nodes, tensors, seen, frame: self.frame.clone() })
    }
}

fn cast(from: &str, to: &str, element: DataType) -> NodeProto {
    let element = AttributeProto::int("to", i64::from(i32::from(element)));
    NodeProto::new("Cast", to, &[from], to, vec![element])
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
