//! Functions of one value, element by element. OpenVINO and TensorRT compute them with the layer before them; ONNX Runtime
//! wants their input quantized, so that what is before them and computed in integers has a quantized result. What is made in
//! floating point (a BatchNorm that stands apart, the sums of tokens) they read as it is: a pair there would fuse with nothing.

use super::super::TensorType;
use super::{Given, OnnxInput, OnnxNode, OnnxScope, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// A function without attributes.
#[derive(Debug)]
pub(super) struct Activation {
    kind: &'static str,
    /// Whether its value can be negative.
    sign: Sign,
    /// Whether ONNX Runtime wants its input quantized where that is made in integers. It drops a ReLU before a quantizer, and
    /// computes what stays in floating point from what it is given.
    quantized: bool,
    stays_float: bool,
    ends_a_layer: bool,
    onnx: fn(&OnnxScope) -> Vec<OnnxNode>,
}

impl Activation {
    const fn new(kind: &'static str, sign: Sign, onnx: fn(&OnnxScope) -> Vec<OnnxNode>) -> Self {
        Self { kind, sign, quantized: true, stays_float: false, ends_a_layer: false, onnx }
    }
}

impl Operator for Activation {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        self.sign
    }

    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        let wanted = self.quantized && target.integer_neighbours() && site.of_integers == [true];
        Some(if wanted { vec![0] } else { vec![] })
    }

    fn stays_float(&self) -> bool {
        self.stays_float
    }

    fn ends_a_layer(&self) -> bool {
        self.ends_a_layer
    }

    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok((self.onnx)(scope))
    }
}

/// `max(x, 0)`. Engines compute it with the layer before it.
pub(super) static RELU: Activation = Activation {
    quantized: false,
    ends_a_layer: true,
    ..Activation::new("Relu", Sign::Unsigned, |_| vec![OnnxNode::unary("Relu")])
};

/// `1 / (1 + exp(-x))`.
pub(super) static SIGMOID: Activation =
    Activation::new("Sigmoid", Sign::Unsigned, |_| vec![OnnxNode::unary("Sigmoid")]);

/// `min(max(x / 6 + 1 / 2, 0), 1)` (Howard et al., arXiv 1905.02244).
pub(super) static HARD_SIGMOID: Activation = Activation::new("HardSigmoid", Sign::Unsigned, hard_sigmoid);

/// `x * sigmoid(x)`, also called swish (Ramachandran et al., arXiv 1710.05941).
pub(super) static SILU: Activation =
    Activation::new("Silu", Sign::Signed, |_| gated(vec![OnnxNode::unary("Sigmoid")]));

/// `x * hard_sigmoid(x)` (Howard et al., arXiv 1905.02244).
pub(super) static HARD_SWISH: Activation = Activation::new("HardSwish", Sign::Signed, |scope| {
    if scope.opset >= 14 { vec![OnnxNode::unary("HardSwish")] } else { gated(hard_sigmoid(scope)) }
});

/// `x * (1 + erf(x / sqrt(2))) / 2` (Hendrycks and Gimpel, arXiv 1606.08415), in the nodes that exporters write below operator
/// set 20, which engines recognise. It stays in floating point.
pub(super) static GELU: Activation = Activation {
    quantized: false,
    stays_float: true,
    ..Activation::new("Gelu", Sign::Signed, |_| {
        let with = OnnxNode::with_number;
        vec![
            with("Div", OnnxInput::Value(0), std::f32::consts::SQRT_2),
            OnnxNode::of_made("Erf", 0),
            with("Add", OnnxInput::Made(1), 1.0),
            OnnxNode::new("Mul", vec![OnnxInput::Value(0), OnnxInput::Made(2)]),
            with("Mul", OnnxInput::Made(3), 0.5),
        ]
    })
};

/// The ONNX nodes of a hard sigmoid. OpenVINO fuses a sum, a clip and a quotient into the layer before them, and computes HardSigmoid itself in
/// a kernel that is not vectorised; ONNX Runtime has a kernel of its own for it.
fn hard_sigmoid(scope: &OnnxScope) -> Vec<OnnxNode> {
    if scope.target == Some(Target::Onnxruntime) {
        return vec![OnnxNode::unary("HardSigmoid").float("alpha", 1.0 / 6.0).float("beta", 0.5)];
    }
    let bounds = [0.0, 6.0].map(OnnxInput::Number);
    vec![
        OnnxNode::with_number("Add", OnnxInput::Value(0), 3.0),
        OnnxNode::new("Clip", [OnnxInput::Made(0)].into_iter().chain(bounds).collect()),
        OnnxNode::with_number("Div", OnnxInput::Made(1), 6.0),
    ]
}

/// `x` times a gate of `x` that `gate` computes.
fn gated(mut gate: Vec<OnnxNode>) -> Vec<OnnxNode> {
    let made = OnnxInput::Made(gate.len() - 1);
    gate.push(OnnxNode::new("Mul", vec![OnnxInput::Value(0), made]));
    gate
}

/// `min(max(x, min), max)`; 0 to 6 is ReLU6. Where the range of its value lies within the bounds, the quantizer behind it
/// cuts off, and files for ONNX Runtime do without it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// The least value.
    pub min: f32,
    /// The largest.
    pub max: f32,
}

impl Clip {
    /// ReLU6 (Howard et al., arXiv 1704.04861).
    pub const RELU6: Clip = Clip { min: 0.0, max: 6.0 };
}

impl Operator for Clip {
    fn kind(&self) -> &'static str {
        "Clip"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        match self.min < self.max && self.min.is_finite() && self.max.is_finite() {
            true => Ok(given.inputs[0].clone()),
            false => Err(format!("bounds {} and {} leave nothing between them", self.min, self.max)),
        }
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        if self.min >= 0.0 { Sign::Unsigned } else { Sign::Signed }
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn cuts_off(&self) -> Option<[f32; 2]> {
        Some([self.min, self.max])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let bounds = [self.min, self.max].map(OnnxInput::Number);
        Ok(vec![OnnxNode::new("Clip", [OnnxInput::Value(0)].into_iter().chain(bounds).collect())])
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("Clip[{}..{}]", self.min, self.max)
    }
}
