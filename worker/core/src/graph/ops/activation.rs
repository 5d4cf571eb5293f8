//! Functions of one value, element by element. OpenVINO and TensorRT compute them with the layer before them; ONNX Runtime
//! wants their input quantized, so that the layer before them has a quantized result.

use super::super::TensorType;
use super::{Given, OnnxInput, OnnxNode, OnnxScope, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// Codes of its input where every node wants integer neighbours.
fn integer_input(target: Target) -> Option<Vec<usize>> {
    Some(if target.integer_neighbours() { vec![0] } else { vec![] })
}

/// `max(x, 0)`. Engines compute it with the layer before it.
#[derive(Debug)]
pub(super) struct Relu;

impl Operator for Relu {
    fn kind(&self) -> &'static str {
        "Relu"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        Sign::Unsigned
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("Relu")])
    }
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

/// `1 / (1 + exp(-x))`.
#[derive(Debug)]
pub(super) struct Sigmoid;

impl Operator for Sigmoid {
    fn kind(&self) -> &'static str {
        "Sigmoid"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        Sign::Unsigned
    }

    fn quantized_inputs(&self, target: Target, _: &Site) -> Option<Vec<usize>> {
        integer_input(target)
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("Sigmoid")])
    }
}

/// `min(max(x / 6 + 1 / 2, 0), 1)` (Howard et al., arXiv 1905.02244).
#[derive(Debug)]
pub(super) struct HardSigmoid;

/// Its ONNX nodes. OpenVINO fuses a sum, a clip and a quotient into the layer before them, and computes HardSigmoid itself in
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

impl Operator for HardSigmoid {
    fn kind(&self) -> &'static str {
        "HardSigmoid"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        Sign::Unsigned
    }

    fn quantized_inputs(&self, target: Target, _: &Site) -> Option<Vec<usize>> {
        integer_input(target)
    }

    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(hard_sigmoid(scope))
    }
}

/// `x` times a gate of `x` that `gate` computes.
fn gated(mut gate: Vec<OnnxNode>) -> Vec<OnnxNode> {
    let made = OnnxInput::Made(gate.len() - 1);
    gate.push(OnnxNode::new("Mul", vec![OnnxInput::Value(0), made]));
    gate
}

/// `x * sigmoid(x)`, also called swish (Ramachandran et al., arXiv 1710.05941).
#[derive(Debug)]
pub(super) struct Silu;

impl Operator for Silu {
    fn kind(&self) -> &'static str {
        "Silu"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn quantized_inputs(&self, target: Target, _: &Site) -> Option<Vec<usize>> {
        integer_input(target)
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(gated(vec![OnnxNode::unary("Sigmoid")]))
    }
}

/// `x * hard_sigmoid(x)` (Howard et al., arXiv 1905.02244).
#[derive(Debug)]
pub(super) struct HardSwish;

impl Operator for HardSwish {
    fn kind(&self) -> &'static str {
        "HardSwish"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn quantized_inputs(&self, target: Target, _: &Site) -> Option<Vec<usize>> {
        integer_input(target)
    }

    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(if scope.opset >= 14 { vec![OnnxNode::unary("HardSwish")] } else { gated(hard_sigmoid(scope)) })
    }
}

/// `x * (1 + erf(x / sqrt(2))) / 2` (Hendrycks and Gimpel, arXiv 1606.08415). It stays in floating point.
#[derive(Debug)]
pub(super) struct Gelu;

impl Operator for Gelu {
    fn kind(&self) -> &'static str {
        "Gelu"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn stays_float(&self) -> bool {
        true
    }

    /// The nodes that exporters write below operator set 20, which engines recognise.
    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let with = OnnxNode::with_number;
        Ok(vec![
            with("Div", OnnxInput::Value(0), std::f32::consts::SQRT_2),
            OnnxNode::of_made("Erf", 0),
            with("Add", OnnxInput::Made(1), 1.0),
            OnnxNode::new("Mul", vec![OnnxInput::Value(0), OnnxInput::Made(2)]),
            with("Mul", OnnxInput::Made(3), 0.5),
        ])
    }
}
