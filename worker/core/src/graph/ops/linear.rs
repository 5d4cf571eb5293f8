//! Fully connected layer.

use super::super::TensorType;
use super::{Given, Layer, OnnxNode, Operator, Shapes, Site};
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// `y = x W^T + b`, weight `[out, in]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// Weight and bias.
    pub layer: Layer,
}

impl Operator for Linear {
    fn kind(&self) -> &'static str {
        "Linear"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let weight = given.param(&self.layer.weight)?;
        let out = match (&given.inputs[0].shape[..], weight) {
            ([features], [out, inn]) if features == inn => *out,
            (shape, _) => return Err(format!("input {shape:?} does not fit weight {weight:?}")),
        };
        if let Some(bias) = &self.layer.bias
            && given.param(bias)? != [out]
        {
            return Err(format!("bias `{bias}` wants shape [{out}]"));
        }
        Ok(TensorType { shape: vec![out], dtype: self.layer.compute })
    }

    fn layer(&self) -> Option<&Layer> {
        Some(&self.layer)
    }

    fn layer_mut(&mut self) -> Option<&mut Layer> {
        Some(&mut self.layer)
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![0])
    }

    fn onnx(&self, _: &Shapes) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::layer("Gemm").int("transB", 1)])
    }

    fn describe(&self, shapes: &Shapes) -> String {
        format!("Linear[{}{}]", shapes.text(&self.layer.weight), self.layer.marks())
    }
}
