//! ONNX nodes as plain data: what an operator is in a file, whatever writes it.

use super::super::TensorType;
use super::Shapes;
use crate::strategy::Target;

/// The file that an operator is written into, as far as its nodes depend on it.
#[derive(Debug)]
pub struct OnnxScope<'a> {
    /// Shapes of the graph's parameters.
    pub shapes: Shapes<'a>,
    /// Types of the values that the operator reads.
    pub inputs: Vec<&'a TensorType>,
    /// Version of ONNX's operator set, 13 to 21.
    pub opset: i64,
    /// The runtime it is for; none where the file is for any.
    pub target: Option<Target>,
    /// Whether one of the values is the same for every image: in files its batch is 1.
    pub reads_constant: bool,
}

impl OnnxScope<'_> {
    /// Dimensions of the operator's first value in the file, with the batch.
    pub fn rank(&self) -> usize {
        1 + self.inputs.first().map_or(0, |ty| ty.shape.len())
    }
}

/// One ONNX node of an operator.
#[derive(Debug, Clone, PartialEq)]
pub struct OnnxNode {
    /// Operator type in ONNX's default domain, e.g. `Conv`.
    pub op_type: &'static str,
    /// What it reads.
    pub inputs: Vec<OnnxInput>,
    /// Attributes by name.
    pub attributes: Vec<(&'static str, OnnxAttribute)>,
}

/// What an ONNX node reads.
#[derive(Debug, Clone, PartialEq)]
pub enum OnnxInput {
    /// The value at this position among the operator's inputs.
    Value(usize),
    /// All values that the operator reads.
    Values,
    /// What this earlier one of the operator's ONNX nodes makes.
    Made(usize),
    /// The weight of its layer, quantized where it is, with BatchNorm folded in.
    Weight,
    /// The same with its first dimension last: a matrix `[in, out]` for MatMul.
    WeightTransposed,
    /// The bias of its layer, with BatchNorm folded in; there always is one.
    Bias,
    /// A parameter in floating point.
    Param(String),
    /// A parameter `[1, D]` or `[1, 1, D]` in floating point as the first of so many rows, `[1, rows, D]`, with zeros below.
    FirstRow(String, usize),
    /// A floating-point number.
    Number(f32),
    /// Floating-point numbers of a shape, the batch's dimension included.
    Numbers(Vec<usize>, Vec<f32>),
    /// Whole numbers in a row, such as a shape.
    Ints(Vec<i64>),
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum OnnxAttribute {
    /// A whole number.
    Int(i64),
    /// Several.
    Ints(Vec<i64>),
    /// A floating-point number.
    Float(f32),
}

impl OnnxNode {
    /// A node without attributes.
    pub fn new(op_type: &'static str, inputs: Vec<OnnxInput>) -> Self {
        Self { op_type, inputs, attributes: Vec::new() }
    }

    /// A node that reads the one value that its operator reads.
    pub fn unary(op_type: &'static str) -> Self {
        Self::new(op_type, vec![OnnxInput::Value(0)])
    }

    /// A node that reads an earlier one's result, or a value, and a number.
    pub fn with_number(op_type: &'static str, first: OnnxInput, number: f32) -> Self {
        Self::new(op_type, vec![first, OnnxInput::Number(number)])
    }

    /// A node that reads what the earlier one of this position makes.
    pub fn of_made(op_type: &'static str, made: usize) -> Self {
        Self::new(op_type, vec![OnnxInput::Made(made)])
    }

    /// A node that computes a layer: it reads value, weight and bias.
    pub fn layer(op_type: &'static str) -> Self {
        Self::new(op_type, vec![OnnxInput::Value(0), OnnxInput::Weight, OnnxInput::Bias])
    }

    /// With a whole number.
    pub fn int(self, name: &'static str, value: i64) -> Self {
        self.with(name, OnnxAttribute::Int(value))
    }

    /// With several sizes.
    pub fn sizes(self, name: &'static str, values: &[usize]) -> Self {
        self.with(name, OnnxAttribute::Ints(values.iter().map(|&v| v as i64).collect()))
    }

    /// With several whole numbers.
    pub fn ints(self, name: &'static str, values: &[i64]) -> Self {
        self.with(name, OnnxAttribute::Ints(values.to_vec()))
    }

    /// With a floating-point number.
    pub fn float(self, name: &'static str, value: f32) -> Self {
        self.with(name, OnnxAttribute::Float(value))
    }

    fn with(mut self, name: &'static str, value: OnnxAttribute) -> Self {
        self.attributes.push((name, value));
        self
    }
}
