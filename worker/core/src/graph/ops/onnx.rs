//! ONNX nodes as plain data: what an operator is in a file, whatever writes it.

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnnxInput {
    /// The value at this position among the operator's inputs.
    Value(usize),
    /// All values that the operator reads.
    Values,
    /// What this earlier one of the operator's ONNX nodes makes.
    Made(usize),
    /// The weight of its layer, quantized where it is, with BatchNorm folded in.
    Weight,
    /// The bias of its layer, with BatchNorm folded in; there always is one.
    Bias,
    /// A parameter in floating point.
    Param(String),
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

    /// With a floating-point number.
    pub fn float(self, name: &'static str, value: f32) -> Self {
        self.with(name, OnnxAttribute::Float(value))
    }

    fn with(mut self, name: &'static str, value: OnnxAttribute) -> Self {
        self.attributes.push((name, value));
        self
    }
}
