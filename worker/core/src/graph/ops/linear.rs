//! Fully connected layer.

use super::super::TensorType;
use super::{Given, Layer, OnnxInput, OnnxNode, OnnxScope, Operator, Shapes, Site};
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// `y = x W^T + b` over the last dimension, weight `[out, in]`.
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
        let mut shape = given.inputs[0].shape.clone();
        let out = match (shape.last(), weight) {
            (Some(features), [out, inn]) if features == inn => *out,
            _ => return Err(format!("input {shape:?} does not fit weight {weight:?}")),
        };
        if let Some(bias) = &self.layer.bias
            && given.param(bias)? != [out]
        {
            return Err(format!("bias `{bias}` wants shape [{out}]"));
        }
        *shape.last_mut().expect("checked above") = out;
        Ok(TensorType { shape, dtype: self.layer.compute })
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

    /// Of a row it is a Gemm, which has a bias; of tokens a MatMul, behind which the bias is added.
    fn takes_integer_bias(&self, value: &TensorType) -> bool {
        value.shape.len() == 1
    }

    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        if scope.rank() == 2 {
            return Ok(vec![OnnxNode::layer("Gemm").int("transB", 1)]);
        }
        Ok(vec![
            OnnxNode::new("MatMul", vec![OnnxInput::Value(0), OnnxInput::WeightTransposed]),
            OnnxNode::new("Add", vec![OnnxInput::Made(0), OnnxInput::Bias]),
        ])
    }

    fn describe(&self, shapes: &Shapes) -> String {
        format!("Linear[{}{}]", shapes.text(&self.layer.weight), self.layer.marks())
    }
}
