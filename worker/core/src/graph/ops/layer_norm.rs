//! Layer normalisation.

use super::super::TensorType;
use super::batch_norm::finite;
use super::{Given, OnnxInput, OnnxNode, OnnxScope, Operator, Site};
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// Layer normalisation over the last dimension (Ba et al., arXiv 1607.06450): `y = gamma * (x - mean) / sqrt(var + eps) +
/// beta` with mean and biased variance of each row. It stays in floating point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Name of gamma `[D]`.
    pub gamma: String,
    /// Name of beta `[D]`.
    pub beta: String,
    /// Added to the variance.
    pub eps: f64,
}

/// First operator set with LayerNormalization.
const OWN_NODE: i64 = 17;

impl Operator for LayerNorm {
    fn kind(&self) -> &'static str {
        "LayerNorm"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        finite("eps", self.eps)?;
        let input = given.inputs[0];
        let last = input.shape.last().copied().ok_or("wants a value with a dimension")?;
        for name in [&self.gamma, &self.beta] {
            if given.param(name)? != [last] {
                return Err(format!("parameter `{name}` wants shape [{last}]"));
            }
        }
        Ok(input.clone())
    }

    fn params(&self) -> Vec<&str> {
        vec![&self.gamma, &self.beta]
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn stays_float(&self) -> bool {
        true
    }

    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let [gamma, beta] = [&self.gamma, &self.beta].map(|name| OnnxInput::Param(name.clone()));
        let eps = self.eps as f32;
        if scope.opset >= OWN_NODE {
            let node = OnnxNode::new("LayerNormalization", vec![OnnxInput::Value(0), gamma, beta]);
            return Ok(vec![node.int("axis", -1).float("epsilon", eps)]);
        }
        // ReduceMean has its axes as an attribute up to operator set 17.
        let mean = |of| OnnxNode::new("ReduceMean", vec![of]).ints("axes", &[-1]).int("keepdims", 1);
        let two = |op_type, a, b| OnnxNode::new(op_type, vec![a, b]);
        use OnnxInput::{Made, Number, Value};
        Ok(vec![
            mean(Value(0)),
            two("Sub", Value(0), Made(0)),
            two("Pow", Made(1), Number(2.0)),
            mean(Made(2)),
            two("Add", Made(3), Number(eps)),
            OnnxNode::of_made("Sqrt", 4),
            two("Div", Made(1), Made(5)),
            two("Mul", Made(6), gamma),
            two("Add", Made(7), beta),
        ])
    }
}
