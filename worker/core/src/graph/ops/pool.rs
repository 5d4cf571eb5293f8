//! Pooling.

use super::super::TensorType;
use super::operator::{kept, windows};
use super::{Given, OnnxNode, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// The square window of a max pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Side.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Padding with minus infinity on both sides.
    pub padding: usize,
}

/// Maximum over windows: every maximum is one of the values.
impl Operator for Window {
    fn kind(&self) -> &'static str {
        "MaxPool"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let [c, h, w] = given.image(0)?;
        if 2 * self.padding > self.kernel {
            return Err(format!("padding {} exceeds half the window {}", self.padding, self.kernel));
        }
        let side = |size| windows(size, self.kernel, self.stride, self.padding);
        Ok(TensorType { shape: vec![c, side(h)?, side(w)?], dtype: given.inputs[0].dtype })
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &Shapes) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![
            OnnxNode::unary("MaxPool")
                .sizes("kernel_shape", &[self.kernel; 2])
                .sizes("strides", &[self.stride; 2])
                .sizes("pads", &[self.padding; 4]),
        ])
    }

    fn describe(&self, _: &Shapes) -> String {
        format!("MaxPool[{} s{} p{}]", self.kernel, self.stride, self.padding)
    }
}

/// Mean over height and width: `[C, H, W] -> [C, 1, 1]`.
#[derive(Debug)]
pub(super) struct GlobalAvgPool;

impl Operator for GlobalAvgPool {
    fn kind(&self) -> &'static str {
        "GlobalAvgPool"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(TensorType { shape: vec![given.image(0)?[0], 1, 1], dtype: given.inputs[0].dtype })
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, target: Target, _: &Site) -> Option<Vec<usize>> {
        Some(if target.integer_neighbours() { vec![0] } else { vec![] })
    }

    fn onnx(&self, _: &Shapes) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("GlobalAveragePool")])
    }
}
