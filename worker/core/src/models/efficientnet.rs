//! EfficientNets (Tan and Le, arXiv 1905.11946): B0 with torchvision's names, and Lite0, its form for integer engines (ReLU6,
//! no squeeze-and-excitation, TensorFlow's padding), with those of timm's `tf_efficientnet_lite0`.

use super::blocks::{
    Behind, End, Names, Norm, classify, conv_norm, conv_norm_activation, end_block, squeeze_excitation,
};
use crate::graph::{Builder, Clip, Graph, GraphError, Initializer, NodeId, Op, Padding, Square};

/// Expansion, side of the kernel, first stride, channels and repeats of each stage; table 1.
const STAGES: [[usize; 5]; 7] = [
    [1, 3, 1, 16, 1],
    [6, 3, 2, 24, 2],
    [6, 5, 2, 40, 2],
    [6, 3, 2, 80, 3],
    [6, 5, 1, 112, 3],
    [6, 5, 2, 192, 4],
    [6, 3, 1, 320, 1],
];

/// Probability with which the last block is left out in training; those before it proportionally less.
const STOCHASTIC_DEPTH: f32 = 0.2;

/// One block of a stage.
struct Block {
    expansion: usize,
    kernel: usize,
    stride: usize,
    out: usize,
    /// Probability with which it is left out in training.
    left_out: f32,
}

impl Block {
    fn end<'a>(&self, block: &'a str, [conv, bn]: &'a [String; 2], norm: Norm) -> End<'a> {
        let names = Names { conv, norm: bn };
        End { block, names, out: self.out, stride: self.stride, norm, left_out: Some(self.left_out) }
    }
}

/// All blocks, with their stage and their place in it.
fn blocks() -> Vec<(usize, usize, Block)> {
    let total: usize = STAGES.iter().map(|stage| stage[4]).sum();
    let mut blocks = Vec::with_capacity(total);
    for (stage, [expansion, kernel, first, out, repeats]) in STAGES.into_iter().enumerate() {
        for i in 0..repeats {
            let stride = if i == 0 { first } else { 1 };
            let left_out = STOCHASTIC_DEPTH * blocks.len() as f32 / total as f32;
            blocks.push((stage, i, Block { expansion, kernel, stride, out, left_out }));
        }
    }
    blocks
}

pub(super) fn b0(name: &str, shape: [usize; 3], classes: usize) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new(name, shape);
    b.initializers(|_| Initializer::FanOut { groups: 1 }, Initializer::UniformOutputs);
    let (norm, silu) = (Norm::DEFAULT, || Behind::activation(Op::Silu));
    let mut x = conv_norm_activation(&mut b, "features.0", x, Square::new(32, 3, 2), norm, silu())?;
    for (stage, i, block) in blocks() {
        let name = format!("features.{}.{i}", stage + 1);
        let mut parts = (0..).map(|i| format!("{name}.block.{i}"));
        let mut part = || parts.next().unwrap_or_default();
        let (narrow, wide) = (b.channels(x), b.channels(x) * block.expansion);
        let mut y = x;
        if block.expansion != 1 {
            y = conv_norm_activation(&mut b, &part(), y, Square::new(wide, 1, 1), norm, silu())?;
        }
        let square = Square::depthwise(wide, block.kernel, block.stride);
        y = conv_norm_activation(&mut b, &part(), y, square, norm, silu())?;
        y = squeeze_excitation(&mut b, &part(), y, (narrow / 4).max(1), Op::Silu, Op::Sigmoid)?;
        let last = part();
        let names = [0, 1].map(|i| format!("{last}.{i}"));
        x = end_block(&mut b, x, y, block.end(&name, &names, norm))?;
    }
    let x = conv_norm_activation(&mut b, "features.8", x, Square::new(1280, 1, 1), norm, silu())?;
    classify(b, x, Some(("classifier.0", 0.2)), "classifier.1", classes)
}

pub(super) fn lite0(name: &str, shape: [usize; 3], classes: usize) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new(name, shape);
    b.initializers(|groups| Initializer::FanOut { groups }, Initializer::UniformOutputs);
    let (norm, relu6) = (Norm::TENSORFLOW, || Behind::activation(Op::Clip(Clip::RELU6)));
    // TensorFlow's padding depends on the size of the image.
    let same = |b: &Builder, x: NodeId, square: Square| {
        let size = [1, 2].map(|i| b.shape(x).get(i).copied().unwrap_or(0));
        Square { padding: Padding::same(size, [square.kernel; 2], [square.stride; 2]), ..square }
    };
    let square = same(&b, x, Square::new(32, 3, 2));
    let mut x = conv_norm(&mut b, Names { conv: "conv_stem", norm: "bn1" }, x, square, norm, relu6())?;
    for (stage, i, block) in blocks() {
        let name = format!("blocks.{stage}.{i}");
        let part = |p: &str| format!("{name}.{p}");
        let wide = b.channels(x) * block.expansion;
        let expands = block.expansion != 1;
        let mut y = x;
        if expands {
            let names = [part("conv_pw"), part("bn1")];
            let names = Names { conv: &names[0], norm: &names[1] };
            y = conv_norm(&mut b, names, y, Square::new(wide, 1, 1), norm, relu6())?;
        }
        let names = [part("conv_dw"), part(if expands { "bn2" } else { "bn1" })];
        let names = Names { conv: &names[0], norm: &names[1] };
        let square = same(&b, y, Square::depthwise(wide, block.kernel, block.stride));
        y = conv_norm(&mut b, names, y, square, norm, relu6())?;
        let names = if expands { [part("conv_pwl"), part("bn3")] } else { [part("conv_pw"), part("bn2")] };
        x = end_block(&mut b, x, y, block.end(&name, &names, norm))?;
    }
    let names = Names { conv: "conv_head", norm: "bn2" };
    let x = conv_norm(&mut b, names, x, Square::new(1280, 1, 1), norm, relu6())?;
    classify(b, x, Some(("dropout", 0.2)), "classifier", classes)
}
