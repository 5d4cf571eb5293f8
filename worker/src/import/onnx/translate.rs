//! A simplified file as a graph: one node after the other, each value with its place and shape.

use super::counts;
use super::fold::{casts_to_float, fold, is_folded, shape_part};
use super::graph::Made;
use super::net::{Net, origin};
use super::patterns::SOFTMAX;
use super::value::{Count, Known, Merged, Place, Value};
use crate::graph::NodeId;
use octrain_formats::onnx::{Constant, Finding, Node};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Operators that become nodes of a graph.
const TAKEN: [&str; 20] = [
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Conv",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "LayerNormalization",
    "MatMul",
    "MaxPool",
    "Pad",
    "ReduceMean",
    "Relu",
    "Sigmoid",
    "Softmax",
    "Split",
    "Sum",
    "Swish",
];

/// Operators of integers, which files have that are quantized already.
const QUANTIZED: [&str; 6] = [
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QuantizeLinear",
    "QLinearConv",
];

/// Operators that are taken within what is written of another with constants.
const WITHIN: [&str; 1] = ["Erf"];

/// What is said of any other.
const NOT_TAKEN: &str = "is no operator that is taken (docs/import-onnx.md lists those)";

/// What is wrong with the operator of a node of `net`, whatever it reads; none where it is taken, or found already.
pub(super) fn refusal(net: &Net, node: &Node) -> Option<String> {
    if net.is_unread(node) {
        return None;
    }
    let (domain, op) = node.op.rsplit_once('.').unwrap_or(("", &node.op));
    if QUANTIZED.contains(&op) || op.starts_with("QLinear") {
        let what = "is of a file that is quantized already; take the network in floating point that it was made of, and quantize that";
        return Some(what.into());
    }
    if !domain.is_empty() {
        return Some(format!("is an operator of the domain `{domain}`; those of the standard are taken"));
    }
    // What it is a part of may be seen once the constants are there.
    let in_part = !net.unread.is_empty() && WITHIN.contains(&op);
    (!TAKEN.contains(&op) && !is_folded(op) && !in_part).then(|| NOT_TAKEN.into())
}

/// What a node reads.
pub(super) struct Reads(pub Vec<Option<Value>>);

impl Reads {
    /// An input; none where it is left out.
    pub fn value(&self, i: usize) -> Option<&Value> {
        self.0.get(i).and_then(Option::as_ref)
    }

    /// All inputs.
    pub fn all(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().flatten()
    }

    /// A value that depends on the image.
    pub fn made(&self, i: usize) -> Result<Place, String> {
        match self.value(i) {
            Some(Value::Made(place)) => Ok(*place),
            _ => Err(format!("its input {i} does not depend on the image")),
        }
    }

    /// A value that depends on the image, with the batch first.
    pub fn first(&self, i: usize) -> Result<NodeId, String> {
        match self.made(i)? {
            Place { id, batch: 0, merged: Merged::Alone } => Ok(id),
            _ => Err("the batch is not the first dimension of what it reads".into()),
        }
    }

    /// A constant.
    pub fn known(&self, i: usize, what: &str) -> Result<&Known, String> {
        match self.value(i) {
            Some(Value::Known(known)) => Ok(known),
            Some(_) => Err(format!("its {what} is computed from the image, and no constant")),
            None => Err(format!("its {what} is missing")),
        }
    }

    /// A constant that may be left out.
    pub fn optional(&self, i: usize, what: &str) -> Result<Option<&Known>, String> {
        if self.value(i).is_none() { Ok(None) } else { self.known(i, what).map(Some) }
    }

    /// The whole numbers of a constant that may be left out.
    pub fn integers(&self, i: usize) -> Result<Option<Vec<i64>>, String> {
        let Some(known) = self.optional(i, "list of numbers")? else { return Ok(None) };
        let all =
            known.constant.as_integers().ok_or_else(|| format!("its input {i} is not of whole numbers"))?;
        Ok(Some(all.to_vec()))
    }
}

/// A graph that is being made of a file.
pub(super) struct Translation<'a> {
    pub net: &'a Net,
    pub made: Made,
    pub opset: i64,
    /// The size of the batch, where the file fixes it.
    pub fixed_batch: Option<usize>,
    /// The operator at the network's end that was left out, whose place is in the loss.
    pub left_out: Option<String>,
    /// What the Softmax at the end makes, where it is to be left out.
    last_softmax: Option<String>,
    values: BTreeMap<String, Value>,
    room: usize,
}

impl<'a> Translation<'a> {
    /// Before the first node: `input` is the value of this place.
    pub fn new(
        net: &'a Net,
        made: Made,
        (input, place): (&str, Place),
        opset: i64,
        fixed_batch: Option<usize>,
    ) -> Self {
        let values = BTreeMap::from([(input.to_string(), Value::Made(place))]);
        let (left_out, last_softmax, room) = (None, None, net.room);
        Self { net, made, opset, fixed_batch, left_out, last_softmax, values, room }
    }

    /// The same, which leaves out a Softmax that makes this value.
    pub fn without_softmax(self, last: Option<String>) -> Self {
        Self { last_softmax: last, ..self }
    }

    /// Whether a node is the Softmax, or its logarithm, that is to be left out.
    pub fn is_last_softmax(&self, node: &Node) -> bool {
        SOFTMAX.contains(&node.op.as_str())
            && self.last_softmax.as_ref().is_some_and(|last| node.outputs.first() == Some(last))
    }

    /// Translates every node; what is not taken is found.
    pub fn run(&mut self, findings: &mut Vec<Finding>) {
        for node in &self.net.nodes {
            let reads = Reads(node.inputs.iter().map(|name| self.read(name)).collect());
            let told = WITHIN.contains(&node.op.as_str()) || self.net.is_unread(node);
            if let Some(why) = refusal(self.net, node).filter(|_| !self.is_last_softmax(node)) {
                findings.push(Finding::at(node, why));
                self.refuse(node);
            } else if told || reads.all().any(|v| *v == Value::Refused) {
                self.refuse(node);
            } else {
                match self.node(node, &reads) {
                    Ok(values) => self.values.extend(node.outputs.iter().cloned().zip(values)),
                    Err(why) => {
                        findings.push(Finding::at(node, why));
                        self.refuse(node);
                    }
                }
            }
        }
    }

    /// The value of this name; none of an input that is left out.
    pub fn read(&self, name: &str) -> Option<Value> {
        if name.is_empty() {
            return None;
        }
        let known = || self.net.constants.get(name).cloned().map(Value::Known);
        Some(self.values.get(name).cloned().or_else(known).unwrap_or(Value::Refused))
    }

    fn refuse(&mut self, node: &Node) {
        self.values.extend(node.outputs.iter().map(|o| (o.clone(), Value::Refused)));
    }

    /// Whether any node reads a value.
    pub fn is_read(&self, value: &str) -> bool {
        self.net.outputs.iter().any(|o| o == value)
            || self.net.nodes.iter().any(|n| n.inputs.iter().any(|i| i == value))
    }

    /// An image, with the batch first.
    pub fn image(&self, reads: &Reads, i: usize) -> Result<(NodeId, [usize; 3]), String> {
        let x = reads.first(i)?;
        match self.made.shape(x) {
            &[c, h, w] => Ok((x, [c, h, w])),
            other => Err(format!("it reads {other:?} of every image; it is taken for [C,H,W]")),
        }
    }

    /// What a node makes, computed here where nothing of it depends on the image.
    fn node(&mut self, node: &Node, reads: &Reads) -> Result<Vec<Value>, String> {
        if node.op == "Shape" {
            return self.shape(node, reads).map(|value| vec![value]);
        }
        if is_computed(reads) {
            return self.computed(node, reads).map(|value| vec![value]);
        }
        let place = match node.op.as_str() {
            "Split" => return Ok(self.split(node, reads)?.into_iter().map(Value::Made).collect()),
            "Expand" => return self.expand(reads).map(|value| vec![value]),
            "Identity" => return Ok(reads.all().cloned().collect()),
            "Cast" => match casts_to_float(node)? {
                true => reads.made(0)?,
                false => return Err("makes whole numbers of what depends on the image".into()),
            },
            "Conv" => self.conv(node, reads)?,
            "Gemm" => self.gemm(node, reads)?,
            "MatMul" => self.matmul(node, reads)?,
            "BatchNormalization" => self.batch_norm(node, reads)?,
            "LayerNormalization" => self.layer_norm(node, reads)?,
            "MaxPool" => self.max_pool(node, reads)?,
            "AveragePool" => self.average_pool(node, reads)?,
            "GlobalAveragePool" => self.global_average_pool(node, reads)?,
            "ReduceMean" => self.mean(node, reads)?,
            "Reshape" => self.reshape(node, reads)?,
            "Flatten" => self.flatten(node, reads)?,
            "Squeeze" | "Unsqueeze" => self.squeeze(node, reads)?,
            "Transpose" => self.transpose(node, reads)?,
            "Slice" => self.slice(node, reads)?,
            "Gather" => self.gather(node, reads)?,
            "Concat" => self.concat(node, reads)?,
            "Pad" => self.pad(node, reads)?,
            "Clip" => self.clip(node, reads)?,
            "Softmax" | "LogSoftmax" => self.softmax(node, reads)?,
            "Dropout" => self.dropout(node, reads)?,
            "Add" | "Sub" | "Mul" | "Div" | "Sum" => self.arithmetic(node, reads)?,
            "Relu" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Swish" | "Gelu" | "Neg" => {
                self.activation(node, reads)?
            }
            _ => return Err("is taken of constants alone, and what it reads depends on the image".into()),
        };
        Ok(vec![Value::Made(place)])
    }

    fn shape(&self, node: &Node, reads: &Reads) -> Result<Value, String> {
        let sizes: Vec<Count> = match reads.value(0) {
            Some(Value::Made(x)) => x.sizes(self.made.shape(x.id)),
            Some(Value::Known(known)) => {
                known.constant.shape.iter().map(|&d| Count::number(d as i64)).collect()
            }
            Some(Value::Counts(all, false)) => vec![Count::number(all.len() as i64)],
            Some(Value::Spread(known)) => {
                let rest = known.constant.shape.iter().skip(1).map(|&d| Count::number(d as i64));
                std::iter::once(Count::BATCH).chain(rest).collect()
            }
            _ => return Err("it reads nothing with a shape".into()),
        };
        Ok(counts::value(shape_part(node, &sizes)?, false))
    }

    /// A node of which nothing depends on the image, though some may on the size of the batch.
    fn computed(&mut self, node: &Node, reads: &Reads) -> Result<Value, String> {
        let values: Vec<Value> = reads.all().cloned().collect();
        if values.iter().any(|v| matches!(v, Value::Counts(..))) {
            if node.op == "Expand" {
                return self.expand(reads);
            }
            let unknown = || "computes with the size of the batch, which is open".to_string();
            return counts::compute(node, &values).ok_or_else(unknown);
        }
        let given: Vec<Option<&Constant>> = reads
            .0
            .iter()
            .map(|v| if let Some(Value::Known(known)) = v { Some(known.constant.as_ref()) } else { None })
            .collect();
        let constant = fold(node, &given, &mut self.room)
            .unwrap_or_else(|| Err("is an operator of the image, and reads constants alone".into()))?;
        let first = match reads.value(0) {
            Some(Value::Known(known)) => Some(known),
            _ => None,
        };
        Ok(Value::Known(Known { constant: Rc::new(constant), origin: origin(node, first) }))
    }
}

/// Whether nothing that a node reads depends on the image.
fn is_computed(reads: &Reads) -> bool {
    reads.all().all(|v| matches!(v, Value::Known(_) | Value::Counts(..)))
}
