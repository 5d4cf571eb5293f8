//! MobileNets, with torchvision's names: V2 (Sandler et al., arXiv 1801.04381) and V3 (Howard et al., arXiv 1905.02244).

use super::blocks::{
    Behind, End, Names, Norm, classify, conv_norm_activation, divisible, end_block, pooled,
    squeeze_excitation,
};
use crate::graph::{Builder, Clip, Dropout, Graph, GraphError, Initializer, NodeId, Op, Square};

/// Where MobileNetV2 strides.
#[derive(Clone, Copy)]
pub(super) struct Strides {
    stem: usize,
    second: usize,
}

impl Strides {
    /// For images of 224 pixels: a 32nd at the end.
    pub const IMAGENET: Strides = Strides { stem: 2, second: 2 };
    /// For images of 32 pixels: an eighth at the end.
    pub const SMALL: Strides = Strides { stem: 1, second: 1 };
}

/// Expansion, channels, repeats and first stride of each stage; table 2.
const V2: [[usize; 4]; 7] = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

pub(super) fn v2(
    name: &str,
    strides: Strides,
    shape: [usize; 3],
    classes: usize,
) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new(name, shape);
    b.initializers(|_| Initializer::FanOut { groups: 1 }, Initializer::Normal { thousandths: 10 });
    let relu6 = || Behind::activation(Op::Clip(Clip::RELU6));
    let mut x = conv_norm_activation(
        &mut b,
        "features.0",
        x,
        Square::new(32, 3, strides.stem),
        Norm::DEFAULT,
        relu6(),
    )?;
    let mut index = 1;
    for (stage, [expansion, out, repeats, first]) in V2.into_iter().enumerate() {
        for i in 0..repeats {
            let stride = match (stage, i) {
                (1, 0) => strides.second,
                (_, 0) => first,
                _ => 1,
            };
            x = v2_block(&mut b, &format!("features.{index}"), x, expansion, out, stride)?;
            index += 1;
        }
    }
    let name = format!("features.{index}");
    let x = conv_norm_activation(&mut b, &name, x, Square::new(1280, 1, 1), Norm::DEFAULT, relu6())?;
    classify(b, x, Some(("classifier.0", 0.2)), "classifier.1", classes)
}

fn v2_block(
    b: &mut Builder,
    name: &str,
    x: NodeId,
    expansion: usize,
    out: usize,
    stride: usize,
) -> Result<NodeId, GraphError> {
    let wide = b.channels(x) * expansion;
    let relu6 = || Behind::activation(Op::Clip(Clip::RELU6));
    let (mut y, mut part) = (x, 0);
    if expansion != 1 {
        let square = Square::new(wide, 1, 1);
        y = conv_norm_activation(b, &format!("{name}.conv.0"), y, square, Norm::DEFAULT, relu6())?;
        part = 1;
    }
    let square = Square::depthwise(wide, 3, stride);
    y = conv_norm_activation(b, &format!("{name}.conv.{part}"), y, square, Norm::DEFAULT, relu6())?;
    let names = [part + 1, part + 2].map(|i| format!("{name}.conv.{i}"));
    let names = Names { conv: &names[0], norm: &names[1] };
    end_block(b, x, y, End { block: name, names, out, stride, norm: Norm::DEFAULT, left_out: None })
}

/// A block of V3: side of the kernel, expanded and output channels, squeeze-and-excitation, hard-swish (else ReLU), stride.
type Block = (usize, usize, usize, bool, bool, usize);

/// Table 1.
pub(super) const LARGE: (&[Block], usize) = (
    &[
        (3, 16, 16, false, false, 1),
        (3, 64, 24, false, false, 2),
        (3, 72, 24, false, false, 1),
        (5, 72, 40, true, false, 2),
        (5, 120, 40, true, false, 1),
        (5, 120, 40, true, false, 1),
        (3, 240, 80, false, true, 2),
        (3, 200, 80, false, true, 1),
        (3, 184, 80, false, true, 1),
        (3, 184, 80, false, true, 1),
        (3, 480, 112, true, true, 1),
        (3, 672, 112, true, true, 1),
        (5, 672, 160, true, true, 2),
        (5, 960, 160, true, true, 1),
        (5, 960, 160, true, true, 1),
    ],
    1280,
);

/// Table 2.
pub(super) const SMALL: (&[Block], usize) = (
    &[
        (3, 16, 16, true, false, 2),
        (3, 72, 24, false, false, 2),
        (3, 88, 24, false, false, 1),
        (5, 96, 40, true, true, 2),
        (5, 240, 40, true, true, 1),
        (5, 240, 40, true, true, 1),
        (5, 120, 48, true, true, 1),
        (5, 144, 48, true, true, 1),
        (5, 288, 96, true, true, 2),
        (5, 576, 96, true, true, 1),
        (5, 576, 96, true, true, 1),
    ],
    1024,
);

pub(super) fn v3(
    name: &str,
    (blocks, last): (&[Block], usize),
    shape: [usize; 3],
    classes: usize,
) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new(name, shape);
    b.initializers(|_| Initializer::FanOut { groups: 1 }, Initializer::Normal { thousandths: 10 });
    let square = Square::new(16, 3, 2);
    let mut x = conv_norm_activation(
        &mut b,
        "features.0",
        x,
        square,
        Norm::TENSORFLOW,
        Behind::activation(Op::HardSwish),
    )?;
    for (i, &block) in blocks.iter().enumerate() {
        x = v3_block(&mut b, &format!("features.{}", i + 1), x, block)?;
    }
    let square = Square::new(6 * b.channels(x), 1, 1);
    let name = format!("features.{}", blocks.len() + 1);
    let x =
        conv_norm_activation(&mut b, &name, x, square, Norm::TENSORFLOW, Behind::activation(Op::HardSwish))?;
    let x = pooled(&mut b, x)?;
    let x = b.linear("classifier.0", x, last)?;
    let x = b.push("classifier.1", Op::HardSwish, &[x])?;
    let x = b.push("classifier.2", Op::Dropout(Dropout { p: 0.2 }), &[x])?;
    let x = b.linear("classifier.3", x, classes)?;
    b.finish(x)
}

fn v3_block(
    b: &mut Builder,
    name: &str,
    x: NodeId,
    (kernel, expanded, out, squeezes, swishes, stride): Block,
) -> Result<NodeId, GraphError> {
    let activation = || Behind::activation(if swishes { Op::HardSwish } else { Op::Relu });
    let mut parts = (0..).map(|i| format!("{name}.block.{i}"));
    let mut part = || parts.next().unwrap_or_default();
    let mut y = x;
    if expanded != b.channels(x) {
        y = conv_norm_activation(b, &part(), y, Square::new(expanded, 1, 1), Norm::TENSORFLOW, activation())?;
    }
    let square = Square::depthwise(expanded, kernel, stride);
    y = conv_norm_activation(b, &part(), y, square, Norm::TENSORFLOW, activation())?;
    if squeezes {
        y = squeeze_excitation(b, &part(), y, divisible(expanded / 4), Op::Relu, Op::HardSigmoid)?;
    }
    let last = part();
    let names = [0, 1].map(|i| format!("{last}.{i}"));
    let names = Names { conv: &names[0], norm: &names[1] };
    end_block(b, x, y, End { block: name, names, out, stride, norm: Norm::TENSORFLOW, left_out: None })
}
