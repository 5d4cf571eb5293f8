//! Pooling.

use super::super::TensorType;
use super::operator::{kept, windows};
use super::{Given, OnnxNode, OnnxScope, Operator, Shapes, Site};
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

/// Zeros or infinities must not fill a window.
fn half_at_most(padding: usize, kernel: usize) -> Result<(), String> {
    match padding.checked_mul(2) {
        Some(both) if both <= kernel => Ok(()),
        _ => Err(format!("padding {padding} exceeds half the window {kernel}")),
    }
}

/// Maximum over windows: every maximum is one of the values.
impl Operator for Window {
    fn kind(&self) -> &'static str {
        "MaxPool"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let [c, h, w] = given.image(0)?;
        half_at_most(self.padding, self.kernel)?;
        let side = |size| windows(size, self.kernel, self.stride, [self.padding; 2]);
        Ok(TensorType { shape: vec![c, side(h)?, side(w)?], dtype: given.inputs[0].dtype })
    }

    fn hands_on(&self) -> bool {
        true
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
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

/// Mean over windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvgPool {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Stride in height and width.
    pub stride: [usize; 2],
    /// Zeros above and below, left and right.
    pub padding: [usize; 2],
    /// Whether the zeros count in the mean.
    pub count_include_pad: bool,
}

impl Operator for AvgPool {
    fn kind(&self) -> &'static str {
        "AvgPool"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let [c, h, w] = given.image(0)?;
        let side = |i: usize, size| {
            half_at_most(self.padding[i], self.kernel[i])?;
            windows(size, self.kernel[i], self.stride[i], [self.padding[i]; 2])
        };
        Ok(TensorType { shape: vec![c, side(0, h)?, side(1, w)?], dtype: given.inputs[0].dtype })
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, target: Target, _: &Site) -> Option<Vec<usize>> {
        Some(if target.integer_neighbours() { vec![0] } else { vec![] })
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let [h, w] = self.padding;
        Ok(vec![
            OnnxNode::unary("AveragePool")
                .sizes("kernel_shape", &self.kernel)
                .sizes("strides", &self.stride)
                .sizes("pads", &[h, w, h, w])
                .int("count_include_pad", i64::from(self.count_include_pad)),
        ])
    }

    fn describe(&self, _: &Shapes) -> String {
        let pair = |[h, w]: [usize; 2]| if h == w { h.to_string() } else { format!("{h}x{w}") };
        let inside = if self.count_include_pad { "" } else { " inside" };
        format!("AvgPool[{} s{} p{}{inside}]", pair(self.kernel), pair(self.stride), pair(self.padding))
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

    /// OpenVINO reads a large image's codes faster than its numbers, where the layer before can write them (MobileNetV2's last
    /// one has 1280 channels).
    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        let codes = target.integer_neighbours() || (target == Target::Openvino && site.of_layer == [true]);
        Some(if codes { vec![0] } else { vec![] })
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::unary("GlobalAveragePool")])
    }
}
