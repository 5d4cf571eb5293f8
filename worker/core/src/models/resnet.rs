//! Residual networks: He et al., arXiv 1512.03385, in the "v1.5" form that strides in the 3x3 convolution.

use crate::graph::{Builder, Graph, GraphError, NodeId, Op, ParamKind, Square, Window};

/// The two residual blocks.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1, four times as wide at the end.
    Bottleneck,
}

fn conv_bn_relu(
    b: &mut Builder,
    [conv, bn]: [&str; 2],
    x: NodeId,
    square: Square,
) -> Result<NodeId, GraphError> {
    let x = b.convolution(conv, x, square)?;
    let x = b.batch_norm(bn, x, ParamKind::Gamma)?;
    b.push(&format!("{bn}.relu"), Op::Relu, &[x])
}

fn block(
    b: &mut Builder,
    kind: Block,
    name: &str,
    x: NodeId,
    width: usize,
    stride: usize,
) -> Result<NodeId, GraphError> {
    let part = |p: &str| format!("{name}.{p}");
    let mut wide = |i: usize, x, kernel, stride| {
        let names = [part(&format!("conv{i}")), part(&format!("bn{i}"))];
        conv_bn_relu(b, names.each_ref().map(String::as_str), x, Square::new(width, kernel, stride))
    };
    let out = if kind == Block::Basic { width } else { 4 * width };
    let y = match kind {
        Block::Basic => wide(1, x, 3, stride)?,
        Block::Bottleneck => {
            let y = wide(1, x, 1, 1)?;
            wide(2, y, 3, stride)?
        }
    };
    let (conv, bn, kernel) = if kind == Block::Basic { ("conv2", "bn2", 3) } else { ("conv3", "bn3", 1) };
    let y = b.conv(&part(conv), y, out, kernel, 1)?;
    let y = b.batch_norm(&part(bn), y, ParamKind::ResidualGamma)?;
    let skip = if stride != 1 || b.channels(x) != out {
        let s = b.conv(&part("downsample.0"), x, out, 1, stride)?;
        b.batch_norm(&part("downsample.1"), s, ParamKind::Gamma)?
    } else {
        x
    };
    let sum = b.push(&part("add"), Op::Add, &[y, skip])?;
    b.push(&part("relu"), Op::Relu, &[sum])
}

fn head(mut b: Builder, x: NodeId, classes: usize) -> Result<Graph, GraphError> {
    let x = b.push("avgpool", Op::GlobalAvgPool, &[x])?;
    let x = b.push("flatten", Op::Flatten, &[x])?;
    let x = b.linear("fc", x, classes)?;
    b.finish(x)
}

/// The four-stage networks with a 7x7 stem.
pub(super) fn imagenet(
    name: &str,
    kind: Block,
    depths: [usize; 4],
    shape: [usize; 3],
    classes: usize,
) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new(name, shape);
    let x = conv_bn_relu(&mut b, ["conv1", "bn1"], x, Square::new(64, 7, 2))?;
    let mut x = b.push("maxpool", Op::MaxPool(Window { kernel: 3, stride: 2, padding: 1 }), &[x])?;
    for (stage, &depth) in depths.iter().enumerate() {
        for i in 0..depth {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            x = block(&mut b, kind, &format!("layer{}.{i}", stage + 1), x, 64 << stage, stride)?;
        }
    }
    head(b, x, classes)
}

/// The three-stage networks of section 4.2, for 32x32 images: 6n + 2 layers.
pub(super) fn small(name: &str, n: usize, shape: [usize; 3], classes: usize) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new(name, shape);
    let mut x = conv_bn_relu(&mut b, ["conv1", "bn1"], x, Square::new(16, 3, 1))?;
    for stage in 0..3 {
        for i in 0..n {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            x = block(&mut b, Block::Basic, &format!("layer{}.{i}", stage + 1), x, 16 << stage, stride)?;
        }
    }
    head(b, x, classes)
}
