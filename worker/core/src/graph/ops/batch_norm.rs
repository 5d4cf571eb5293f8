//! Batch normalisation.

use super::super::TensorType;
use super::{Given, OnnxInput, OnnxNode, OnnxScope, Operator, Site};
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// Batch normalisation over all but the channel dimension: `y = gamma * (x - mean) / sqrt(var + eps) + beta`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Name of gamma.
    pub gamma: String,
    /// Name of beta.
    pub beta: String,
    /// Name of the running mean.
    pub mean: String,
    /// Name of the running (unbiased) variance.
    pub var: String,
    /// Added to the variance.
    pub eps: f64,
    /// `running = (1 - momentum) * running + momentum * batch`.
    pub momentum: f64,
}

impl BatchNorm {
    /// Names of its parameters: gamma, beta, running mean, running variance.
    pub fn names(&self) -> [&str; 4] {
        [&self.gamma, &self.beta, &self.mean, &self.var]
    }
}

/// A number of an operator that graphs can be written with: JSON has finite ones alone.
pub(super) fn finite(name: &str, value: f64) -> Result<(), String> {
    if value.is_finite() { Ok(()) } else { Err(format!("its {name} is {value}")) }
}

impl Operator for BatchNorm {
    fn kind(&self) -> &'static str {
        "BatchNorm"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        finite("eps", self.eps)?;
        finite("momentum", self.momentum)?;
        let channels = given.inputs[0].shape.first().copied().unwrap_or(0);
        for name in self.names() {
            if given.param(name)? != [channels] {
                return Err(format!("parameter `{name}` wants shape [{channels}]"));
            }
        }
        Ok(given.inputs[0].clone())
    }

    fn params(&self) -> Vec<&str> {
        self.names().to_vec()
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    /// Where it is not folded into a layer.
    fn stays_float(&self) -> bool {
        true
    }

    /// Variances are squares: those of small values are zero in FP16, and those of large ones infinite.
    fn wants_fp32(&self) -> bool {
        true
    }

    fn ends_a_layer(&self) -> bool {
        true
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let mut inputs = vec![OnnxInput::Value(0)];
        inputs.extend(self.names().map(|name| OnnxInput::Param(name.into())));
        Ok(vec![OnnxNode::new("BatchNormalization", inputs).float("epsilon", self.eps as f32)])
    }
}
