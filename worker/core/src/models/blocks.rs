//! What the networks of inverted bottlenecks have in common: torchvision's `Conv2dNormActivation` and `SqueezeExcitation`,
//! with their names.

use crate::graph::{Builder, Dropout, Graph, GraphError, NodeId, Op, ParamKind, Square, StochasticDepth};

/// The BatchNorm of a network.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub eps: f64,
    pub momentum: f64,
}

impl Norm {
    /// PyTorch's own.
    pub const DEFAULT: Norm = Norm { eps: 1e-5, momentum: 0.1 };
    /// MobileNetV3's and the EfficientNets' from TensorFlow.
    pub const TENSORFLOW: Norm = Norm { eps: 1e-3, momentum: 0.01 };
}

/// How the parts of a block are named.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub conv: &'a str,
    pub norm: &'a str,
}

/// What stands behind a BatchNorm.
pub(super) enum Behind {
    /// An activation.
    Activation(Box<Op>),
    /// The sum with the block's input: gamma may start at 0, so that the block is the identity at first.
    Sum,
    /// The next block.
    Nothing,
}

impl Behind {
    pub fn activation(op: Op) -> Self {
        Behind::Activation(Box::new(op))
    }
}

/// Convolution, BatchNorm and an activation, if there is one.
pub(super) fn conv_norm(
    b: &mut Builder,
    names: Names,
    x: NodeId,
    square: Square,
    norm: Norm,
    behind: Behind,
) -> Result<NodeId, GraphError> {
    let x = b.convolution(names.conv, x, square)?;
    let gamma = match behind {
        Behind::Sum => ParamKind::ResidualGamma,
        Behind::Activation(_) | Behind::Nothing => ParamKind::Gamma,
    };
    let x = b.batch_norm_with(names.norm, x, gamma, norm.eps, norm.momentum)?;
    match behind {
        Behind::Activation(op) => b.push(&format!("{}.act", names.norm), *op, &[x]),
        Behind::Sum | Behind::Nothing => Ok(x),
    }
}

/// The end of a block: a pointwise convolution, and the sum with the block's input where both have one shape.
pub(super) struct End<'a> {
    /// The block.
    pub block: &'a str,
    pub names: Names<'a>,
    pub out: usize,
    /// The block's.
    pub stride: usize,
    pub norm: Norm,
    /// Probability with which the block is left out in training, where it has one.
    pub left_out: Option<f32>,
}

/// Ends the block that began with `x` and came to `y`.
pub(super) fn end_block(b: &mut Builder, x: NodeId, y: NodeId, end: End) -> Result<NodeId, GraphError> {
    let End { block, names, out, stride, norm, left_out } = end;
    let sums = stride == 1 && b.channels(x) == out;
    let behind = if sums { Behind::Sum } else { Behind::Nothing };
    let mut y = conv_norm(b, names, y, Square::new(out, 1, 1), norm, behind)?;
    if !sums {
        return Ok(y);
    }
    if let Some(p) = left_out {
        y = b.push(&format!("{block}.stochastic_depth"), Op::StochasticDepth(StochasticDepth { p }), &[y])?;
    }
    b.push(&format!("{block}.add"), Op::Add, &[y, x])
}

/// [`conv_norm`] with torchvision's names: `NAME.0` and `NAME.1`.
pub(super) fn conv_norm_activation(
    b: &mut Builder,
    name: &str,
    x: NodeId,
    square: Square,
    norm: Norm,
    behind: Behind,
) -> Result<NodeId, GraphError> {
    let [conv, bn] = [0, 1].map(|i| format!("{name}.{i}"));
    conv_norm(b, Names { conv: &conv, norm: &bn }, x, square, norm, behind)
}

/// Every channel times a gate made of all channels' means (Hu et al., arXiv 1709.01507).
pub(super) fn squeeze_excitation(
    b: &mut Builder,
    name: &str,
    x: NodeId,
    squeezed: usize,
    activation: Op,
    gate: Op,
) -> Result<NodeId, GraphError> {
    let part = |p: &str| format!("{name}.{p}");
    let channels = b.channels(x);
    let s = b.push(&part("avgpool"), Op::GlobalAvgPool, &[x])?;
    let s = b.convolution(&part("fc1"), s, Square::new(squeezed, 1, 1).biased())?;
    let s = b.push(&part("activation"), activation, &[s])?;
    let s = b.convolution(&part("fc2"), s, Square::new(channels, 1, 1).biased())?;
    let s = b.push(&part("scale_activation"), gate, &[s])?;
    b.push(&part("mul"), Op::Mul, &[x, s])
}

/// Means of the channels in a row.
pub(super) fn pooled(b: &mut Builder, x: NodeId) -> Result<NodeId, GraphError> {
    let x = b.push("avgpool", Op::GlobalAvgPool, &[x])?;
    b.push("flatten", Op::Flatten, &[x])
}

/// Means of the channels, dropout, and a fully connected layer.
pub(super) fn classify(
    mut b: Builder,
    x: NodeId,
    dropout: Option<(&str, f32)>,
    name: &str,
    classes: usize,
) -> Result<Graph, GraphError> {
    let mut x = pooled(&mut b, x)?;
    if let Some((name, p)) = dropout {
        x = b.push(name, Op::Dropout(Dropout { p }), &[x])?;
    }
    let x = b.linear(name, x, classes)?;
    b.finish(x)
}

/// Channels rounded to a multiple of 8, and never down by more than a tenth.
pub(super) fn divisible(channels: usize) -> usize {
    let rounded = ((channels + 4) / 8 * 8).max(8);
    if 10 * rounded < 9 * channels { rounded + 8 } else { rounded }
}
