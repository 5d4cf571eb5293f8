//! Change of element type, of mixed precision.

use super::super::{DType, TensorType};
use super::{Given, OnnxNode, OnnxScope, Operator, Shapes};
use serde::{Deserialize, Serialize};

/// The same values in another type. Codes pass through it: those of 8 bits times their scale, rounded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cast {
    /// The type.
    pub to: DType,
}

impl Operator for Cast {
    fn kind(&self) -> &'static str {
        "Cast"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(TensorType { shape: given.inputs[0].shape.clone(), dtype: self.to })
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Err("files hold FP32 values; amp-cast must be off for export".into())
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("Cast[{}]", self.to)
    }
}
