//! What convolutions and fully connected layers have in common: a product with a weight.

use super::super::DType;
use super::BatchNorm;
use crate::quant::scheme::Scheme;
use serde::{Deserialize, Serialize};

/// Weight and bias of a product, and how it is computed. The weight's first dimension is that of the outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Name of the weight.
    pub weight: String,
    /// Name of the bias `[out]`, if any.
    pub bias: Option<String>,
    /// How the weight is quantized; `None`: it is not.
    pub scheme: Option<Scheme>,
    /// Whether the bias is added as an integer, in units of input scale times weight scale.
    pub integer_bias: bool,
    /// Element type in which it computes.
    pub compute: DType,
    /// The BatchNorm that was folded into it, by `fold-batch-norm`: weights and bias are made from its parameters.
    pub folded: Option<BatchNorm>,
}

impl Layer {
    /// A layer in FP32, as networks are built.
    pub fn new(weight: impl Into<String>, bias: Option<String>) -> Self {
        Self {
            weight: weight.into(),
            bias,
            scheme: None,
            integer_bias: false,
            compute: DType::F32,
            folded: None,
        }
    }

    /// Names of its parameters: weight, bias, then those of the BatchNorm that was folded into it.
    pub fn params(&self) -> Vec<&str> {
        std::iter::once(self.weight.as_str())
            .chain(self.bias.as_deref())
            .chain(self.folded.iter().flat_map(BatchNorm::names))
            .collect()
    }

    /// Whether the weight is quantized.
    pub fn quantized(&self) -> bool {
        self.scheme.is_some()
    }

    /// What dumps say of it behind shape and attributes, e.g. ` bias +bn int8`.
    pub fn marks(&self) -> String {
        let mark = |on: bool, text: &'static str| if on { text } else { "" };
        let bits = self.scheme.map_or_else(String::new, |scheme| format!(" int{}", scheme.bits));
        [mark(self.bias.is_some(), " bias"), mark(self.folded.is_some(), " +bn"), &bits].concat()
    }
}
