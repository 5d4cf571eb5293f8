//! Convolution.

use super::super::TensorType;
use super::operator::windows;
use super::{Given, Layer, OnnxNode, Operator, Shapes, Site};
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// A two-dimensional convolution, weight `[out, in / groups, kh, kw]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Weight and bias.
    pub layer: Layer,
    /// Stride in height and width.
    pub stride: [usize; 2],
    /// Zero padding on both sides of height and width.
    pub padding: [usize; 2],
    /// Groups.
    pub groups: usize,
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
        let oh = windows(h, kh, self.stride[0], self.padding[0])?;
        let ow = windows(w, kw, self.stride[1], self.padding[1])?;
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

    fn onnx(&self, shapes: &Shapes) -> Result<Vec<OnnxNode>, String> {
        let weight = &self.layer.weight;
        let shape = shapes.of(weight).ok_or_else(|| format!("its weight `{weight}` is not declared"))?;
        let [ph, pw] = self.padding;
        Ok(vec![
            OnnxNode::layer("Conv")
                .sizes("kernel_shape", &shape[2..])
                .sizes("strides", &self.stride)
                .sizes("pads", &[ph, pw, ph, pw])
                .sizes("dilations", &[1, 1])
                .int("group", self.groups as i64),
        ])
    }

    fn describe(&self, shapes: &Shapes) -> String {
        let groups = if self.groups > 1 { format!(" g{}", self.groups) } else { String::new() };
        let (stride, padding, marks) = (self.stride[0], self.padding[0], self.layer.marks());
        format!("Conv[{} s{stride} p{padding}{groups}{marks}]", shapes.text(&self.layer.weight))
    }
}
