//! Convolution.

use super::super::TensorType;
use super::operator::windows;
use super::{Given, Layer, OnnxNode, OnnxScope, Operator, Padding, Shapes, Site};
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// A two-dimensional convolution, weight `[out, in / groups, kh, kw]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Weight and bias.
    pub layer: Layer,
    /// Stride in height and width.
    pub stride: [usize; 2],
    /// Zeros around the image.
    pub padding: Padding,
    /// Distance of the kernel's elements in height and width; 1: they touch.
    #[serde(default = "touching", skip_serializing_if = "touches")]
    pub dilation: [usize; 2],
    /// Groups; as many as input channels: a depthwise convolution.
    pub groups: usize,
}

const fn touching() -> [usize; 2] {
    [1, 1]
}

fn touches(dilation: &[usize; 2]) -> bool {
    *dilation == touching()
}

/// Elements that a kernel of side `kernel` spans.
fn span(kernel: usize, dilation: usize) -> Result<usize, String> {
    let span = kernel.checked_sub(1).and_then(|gaps| gaps.checked_mul(dilation)?.checked_add(1));
    span.filter(|_| dilation > 0)
        .ok_or_else(|| format!("kernel {kernel} with dilation {dilation} has no size"))
}

impl Operator for Conv {
    fn kind(&self) -> &'static str {
        "Conv"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let [c, h, w] = given.image(0)?;
        let weight = given.param(&self.layer.weight)?;
        let [out, per_group, kh, kw] = weight[..] else {
            return Err(format!("weight `{}` wants 4 dimensions, has {weight:?}", self.layer.weight));
        };
        if self.groups == 0 || per_group.checked_mul(self.groups) != Some(c) || out % self.groups != 0 {
            return Err(format!(
                "{c} input channels do not fit weight {weight:?} with {} groups",
                self.groups
            ));
        }
        if let Some(bias) = &self.layer.bias
            && given.param(bias)? != [out]
        {
            return Err(format!("bias `{bias}` wants shape [{out}]"));
        }
        let oh = windows(h, span(kh, self.dilation[0])?, self.stride[0], self.padding.of_height())?;
        let ow = windows(w, span(kw, self.dilation[1])?, self.stride[1], self.padding.of_width())?;
        Ok(TensorType { shape: vec![out, oh, ow], dtype: self.layer.compute })
    }

    fn layer(&self) -> Option<&Layer> {
        Some(&self.layer)
    }

    fn layer_mut(&mut self) -> Option<&mut Layer> {
        Some(&mut self.layer)
    }

    fn absorbs_sum(&self) -> bool {
        true
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![0])
    }

    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        let weight = &self.layer.weight;
        let shape =
            scope.shapes.of(weight).ok_or_else(|| format!("its weight `{weight}` is not declared"))?;
        Ok(vec![
            OnnxNode::layer("Conv")
                .sizes("kernel_shape", &shape[2..])
                .sizes("strides", &self.stride)
                .sizes("pads", &self.padding.onnx())
                .sizes("dilations", &self.dilation)
                .int("group", self.groups as i64),
        ])
    }

    fn describe(&self, shapes: &Shapes) -> String {
        let pair = |[h, w]: [usize; 2]| if h == w { h.to_string() } else { format!("{h}x{w}") };
        let groups = if self.groups > 1 { format!(" g{}", self.groups) } else { String::new() };
        let dilation =
            if touches(&self.dilation) { String::new() } else { format!(" d{}", pair(self.dilation)) };
        let (shape, stride, marks) = (shapes.text(&self.layer.weight), pair(self.stride), self.layer.marks());
        format!("Conv[{shape} s{stride} p{}{dilation}{groups}{marks}]", self.padding)
    }
}
