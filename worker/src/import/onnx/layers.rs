//! Products with weights, and normalisations.

use super::attributes::{float, integer, integers, sizes, text};
use super::patterns::{along, factor, times};
use super::translate::{Reads, Translation};
use super::value::{Known, Place};
use crate::graph::{BatchNorm, Conv, Layer, LayerNorm, Linear, MatMul, NodeId, Op, Padding, ParamKind};
use octrain_formats::onnx::{Constant, Node};
use std::rc::Rc;

/// A name for a layer: that of its weight without its last word, as modules of PyTorch are named, else that of the file's node.
fn layer_name(weight: &Known, node: &Node) -> String {
    let module = weight.origin.as_deref().and_then(|name| name.strip_suffix(".weight"));
    module.filter(|name| !name.is_empty()).unwrap_or(&node.name).to_string()
}

fn floats(known: &Known, what: &str) -> Result<Vec<f32>, String> {
    known
        .constant
        .as_floats()
        .map(<[f32]>::to_vec)
        .ok_or_else(|| format!("its {what} is not of floating-point numbers"))
}

/// Explicit zeros around an image `[height, width]`, of a node with windows of side `span`.
pub(super) fn padding(
    node: &Node,
    size: [usize; 2],
    span: [usize; 2],
    stride: [usize; 2],
) -> Result<Padding, String> {
    if stride.contains(&0) {
        return Err("its stride is 0".into());
    }
    match text(node, "auto_pad", "NOTSET")? {
        "NOTSET" | "" => {
            let [top, left, bottom, right] = sizes(node, "pads", 0)?;
            Ok(Padding { top, left, bottom, right })
        }
        "VALID" => Ok(Padding::default()),
        "SAME_UPPER" => Ok(Padding::same(size, span, stride)),
        "SAME_LOWER" => {
            let Padding { top, left, bottom, right } = Padding::same(size, span, stride);
            Ok(Padding { top: bottom, left: right, bottom: top, right: left })
        }
        other => Err(format!("its auto_pad is `{other}`")),
    }
}

/// Elements that a kernel spans.
pub(super) fn span(kernel: [usize; 2], dilation: [usize; 2]) -> Result<[usize; 2], String> {
    let side = |i: usize| kernel[i].checked_sub(1)?.checked_mul(dilation[i])?.checked_add(1);
    match (side(0), side(1)) {
        (Some(h), Some(w)) => Ok([h, w]),
        _ => Err(format!("its kernel {kernel:?} with dilations {dilation:?} has no size")),
    }
}

impl Translation<'_> {
    pub(super) fn conv(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let (x, [_, h, w]) = self.image(reads, 0)?;
        let weight = reads.known(1, "weight")?;
        let &[out, per_group, kh, kw] = &weight.constant.shape[..] else {
            return Err(format!(
                "its weight is {:?}; two-dimensional convolutions are taken",
                weight.constant.shape
            ));
        };
        let (stride, dilation) = (sizes(node, "strides", 1)?, sizes(node, "dilations", 1)?);
        let padding = padding(node, [h, w], span([kh, kw], dilation)?, stride)?;
        let (x, padding) = self.with_zeros_before(x, padding)?;
        let groups = usize::try_from(integer(node, "group", 1)?).map_err(|_| "its group is negative")?;
        if integers(node, "kernel_shape")?.is_some_and(|k| k != [kh as i64, kw as i64]) {
            return Err(format!("its kernel_shape is not that of its weight, {kh} x {kw}"));
        }
        let name = layer_name(weight, node);
        let data = floats(weight, "weight")?;
        let shape = [out, per_group, kh, kw];
        let of_weight =
            self.made.param(weight, &format!("{name}.weight"), &shape, data, ParamKind::ConvWeight)?;
        let bias = reads.optional(2, "bias")?.map(|bias| self.bias(bias, &name, out, 1.0)).transpose()?;
        let conv = Conv { layer: Layer::new(of_weight, bias), stride, padding, dilation, groups };
        Ok(Place::first(self.made.push(&name, Op::Conv(conv), &[x])?))
    }

    /// Zeros that a Pad put around an image are a convolution's own: the value before it, and all zeros around that.
    fn with_zeros_before(&self, x: NodeId, own: Padding) -> Result<(NodeId, Padding), String> {
        let node = self.made.graph.node(x);
        let Op::Pad(pad) = &node.op else { return Ok((x, own)) };
        let (&[0, top, left], &[0, bottom, right]) = (&pad.before[..], &pad.after[..]) else {
            return Ok((x, own));
        };
        let sum = |a: usize, b: usize| a.checked_add(b).ok_or("its zeros cannot be counted");
        let padding = Padding {
            top: sum(own.top, top)?,
            left: sum(own.left, left)?,
            bottom: sum(own.bottom, bottom)?,
            right: sum(own.right, right)?,
        };
        Ok((node.inputs[0], padding))
    }

    fn bias(&mut self, bias: &Known, layer: &str, out: usize, factor: f32) -> Result<String, String> {
        let data = times(&bias.constant, factor).ok_or("its bias is not of floating-point numbers")?;
        // One number stands for all.
        let data = if data.len() == 1 { vec![data[0]; out] } else { data };
        if data.len() != out {
            return Err(format!("its bias has {} numbers for {out} outputs", data.len()));
        }
        self.made.param(bias, &format!("{layer}.bias"), &[out], data, ParamKind::Bias)
    }

    /// A product of the last dimension with a weight `[in, out]`, or `[out, in]` where it is `turned`.
    fn linear(
        &mut self,
        node: &Node,
        (x, turned): (Place, bool),
        weight: &Known,
        bias: Option<&Known>,
        [alpha, beta]: [f32; 2],
    ) -> Result<Place, String> {
        let &[rows, columns] = &weight.constant.shape[..] else {
            return Err(format!(
                "its weight is {:?}; one of two dimensions is wanted",
                weight.constant.shape
            ));
        };
        let rank = x.sizes(self.made.shape(x.id)).len();
        if x.axis(rank - 1).is_none() {
            return Err("multiplies along the batch".into());
        }
        let (constant, shape) = match turned {
            true => (weight.constant.as_ref().clone(), [rows, columns]),
            false => (super::rearrange::turned(&weight.constant, &[1, 0]), [columns, rows]),
        };
        let data = times(&constant, alpha).ok_or("its weight is not of floating-point numbers")?;
        let name = layer_name(weight, node);
        let of_weight =
            self.made.param(weight, &format!("{name}.weight"), &shape, data, ParamKind::LinearWeight)?;
        let bias = bias.map(|bias| self.bias(bias, &name, shape[0], beta)).transpose()?;
        let linear = Linear { layer: Layer::new(of_weight, bias) };
        Ok(Place { id: self.made.push(&name, Op::Linear(linear), &[x.id])?, ..x })
    }

    pub(super) fn gemm(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        if integer(node, "transA", 0)? != 0 {
            return Err("it reads its first input with rows and columns exchanged".into());
        }
        let x = reads.made(0)?;
        let turned = integer(node, "transB", 0)? != 0;
        let factors = [factor(node, "alpha")?, factor(node, "beta")?];
        let bias = reads.optional(2, "bias")?;
        if let Some(Known { constant, .. }) = bias
            && constant.numbers.len() > 1
            && constant.shape.last() != Some(&constant.numbers.len())
        {
            return Err(format!(
                "it adds numbers of shape {:?}, where one for each output is wanted",
                constant.shape
            ));
        }
        self.linear(node, (x, turned), reads.known(1, "weight")?, bias, factors)
    }

    pub(super) fn matmul(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let a = reads.made(0)?;
        if let Ok(weight) = reads.known(1, "weight") {
            return self.linear(node, (a, false), weight, None, [1.0; 2]);
        }
        let mut b = reads.made(1)?;
        let [rank_a, rank_b] = [a, b].map(|v| v.sizes(self.made.shape(v.id)).len());
        if (rank_a, a.batch, a.merged) != (rank_b, b.batch, b.merged) || a.batch + 2 >= rank_a {
            return Err("multiplies values whose images lie differently, or along the batch".into());
        }
        // A transpose of the second value's last two dimensions is part of the product.
        let before = self.made.graph.node(b.id);
        let mut turned: Vec<usize> = (0..before.ty.shape.len()).collect();
        let last = turned.len();
        turned.swap(last - 2, last - 1);
        let transpose_b = matches!(&before.op, Op::Transpose(t) if t.perm == turned);
        if transpose_b {
            b.id = before.inputs[0];
        }
        let op = Op::MatMul(MatMul { transpose_b });
        Ok(Place { id: self.made.push(&node.name, op, &[a.id, b.id])?, ..a })
    }

    pub(super) fn batch_norm(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        // Before operator set 14 it is the outputs beyond the first that say so.
        let statistics = node.outputs.iter().skip(1).any(|name| !name.is_empty());
        if integer(node, "training_mode", 0)? != 0 || statistics {
            return Err("it normalises as in training; export the network for inference: model.eval()".into());
        }
        if integer(node, "spatial", 1)? != 1 {
            return Err("it has statistics for every place of the image".into());
        }
        let x = reads.first(0)?;
        let given = [1, 2, 3, 4].map(|i| reads.known(i, "statistics"));
        let [gamma, beta, mean, var] = given;
        let (gamma, beta, mean, var) = (gamma?, beta?, mean?, var?);
        let name = layer_name(gamma, node);
        let mut declare = |known: &Known, word: &str, kind| {
            let data = floats(known, word)?;
            self.made.param(known, &format!("{name}.{word}"), &[data.len()], data, kind)
        };
        let norm = BatchNorm {
            gamma: declare(gamma, "weight", ParamKind::Gamma)?,
            beta: declare(beta, "bias", ParamKind::Beta)?,
            mean: declare(mean, "running_mean", ParamKind::RunningMean)?,
            var: declare(var, "running_var", ParamKind::RunningVar)?,
            eps: shortest(float(node, "epsilon", 1e-5)?),
            // ONNX's momentum is the part of the old.
            momentum: 1.0 - shortest(float(node, "momentum", 0.9)?),
        };
        let momentum = (norm.momentum * 1e6).round() / 1e6;
        let norm = BatchNorm { momentum, ..norm };
        Ok(Place::first(self.made.push(&name, Op::BatchNorm(norm), &[x])?))
    }

    pub(super) fn layer_norm(&mut self, node: &Node, reads: &Reads) -> Result<Place, String> {
        let x = reads.made(0)?;
        let rank = x.sizes(self.made.shape(x.id)).len();
        if along(node, -1, rank)? + 1 != rank || x.axis(rank - 1).is_none() {
            return Err("it normalises over more than the last dimension".into());
        }
        let width = self.made.shape(x.id).last().copied().unwrap_or(0);
        let gamma = reads.known(1, "scale")?.clone();
        let none = Known { constant: Rc::new(Constant::floats(vec![width], vec![0.0; width])), origin: None };
        let beta = reads.optional(2, "bias")?.cloned().unwrap_or(none);
        let name = layer_name(&gamma, node);
        let mut declare = |known: &Known, word: &str, kind| {
            let data = floats(known, word)?;
            self.made.param(known, &format!("{name}.{word}"), &[data.len()], data, kind)
        };
        let norm = LayerNorm {
            gamma: declare(&gamma, "weight", ParamKind::Gamma)?,
            beta: declare(&beta, "bias", ParamKind::Beta)?,
            eps: shortest(float(node, "epsilon", 1e-5)?),
        };
        Ok(Place { id: self.made.push(&name, Op::LayerNorm(norm), &[x.id])?, ..x })
    }
}

/// The number that somebody wrote down before it was stored with 32 bits: 1e-5 for 0.000009999999747.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}
