//! Values that do not come from the image.

use super::super::{DType, TensorType};
use super::{Arity, Given, OnnxInput, OnnxNode, OnnxScope, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// A parameter `[1, ...]` as a value, the same for every image: the embedding of positions, the scale of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name. Its first dimension is that of the batch, 1.
    pub name: String,
    /// Element type of the value.
    pub compute: DType,
}

impl Parameter {
    /// In FP32, as networks are built.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), compute: DType::F32 }
    }
}

impl Operator for Parameter {
    fn kind(&self) -> &'static str {
        "Parameter"
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(0)
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        match given.param(&self.name)? {
            [1, shape @ ..] if !shape.is_empty() => {
                Ok(TensorType { shape: shape.to_vec(), dtype: self.compute })
            }
            shape => Err(format!("parameter `{}` wants shape [1, ...], has {shape:?}", self.name)),
        }
    }

    fn params(&self) -> Vec<&str> {
        vec![&self.name]
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::new("Identity", vec![OnnxInput::Param(self.name.clone())])])
    }

    fn describe(&self, shapes: &Shapes) -> String {
        format!("Parameter[{}]", shapes.text(&self.name))
    }
}

/// Numbers that are not trained, the same for every image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// Shape, without the batch.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
    /// Element type of the value.
    pub compute: DType,
}

impl Operator for Constant {
    fn kind(&self) -> &'static str {
        "Constant"
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(0)
    }

    fn infer(&self, _: &Given) -> Result<TensorType, String> {
        let count = self.shape.iter().try_fold(1usize, |all, &side| all.checked_mul(side));
        if count != Some(self.values.len()) {
            return Err(format!("has {} numbers for shape {:?}", self.values.len(), self.shape));
        }
        match self.values.iter().find(|v| !v.is_finite()) {
            Some(value) => Err(format!("holds {value}")),
            None => Ok(TensorType { shape: self.shape.clone(), dtype: self.compute }),
        }
    }

    fn sign(&self, _: &[Sign]) -> Sign {
        if self.values.iter().all(|&v| v >= 0.0) { Sign::Unsigned } else { Sign::Signed }
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let shape = [1].into_iter().chain(self.shape.iter().copied()).collect();
        Ok(vec![OnnxNode::new("Identity", vec![OnnxInput::Numbers(shape, self.values.clone())])])
    }

    fn describe(&self, _: &Shapes) -> String {
        let dims: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        format!("Constant[{}]", dims.join("x"))
    }
}

/// One token, the same for every image, before all others: `[T, D] -> [T + 1, D]` (Dosovitskiy et al., arXiv 2010.11929).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassToken {
    /// Name of the token `[1, 1, D]`.
    pub token: String,
}

impl Operator for ClassToken {
    fn kind(&self) -> &'static str {
        "ClassToken"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let input = given.inputs[0];
        let (token, wanted) = (given.param(&self.token)?, &input.shape[..]);
        match (token, wanted) {
            ([1, 1, width], [tokens, d]) if width == d && *tokens < usize::MAX => {
                Ok(TensorType { shape: vec![tokens + 1, *d], dtype: input.dtype })
            }
            _ => Err(format!("token `{}` of shape {token:?} does not fit {input}", self.token)),
        }
    }

    fn params(&self) -> Vec<&str> {
        vec![&self.token]
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    /// A row of zeros before the tokens, to which the token is added: no node has to know the size of the batch.
    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let tokens = scope.inputs.first().and_then(|ty| ty.shape.first()).ok_or("it reads no tokens")?;
        let pads = OnnxInput::Ints(vec![0, 1, 0, 0, 0, 0]);
        let rows = OnnxInput::FirstRow(self.token.clone(), tokens + 1);
        Ok(vec![
            OnnxNode::new("Pad", vec![OnnxInput::Value(0), pads]),
            OnnxNode::new("Add", vec![OnnxInput::Made(0), rows]),
        ])
    }
}
