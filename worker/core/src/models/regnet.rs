//! RegNets (Radosavovic et al., arXiv 2003.13678), with torchvision's names.

use super::blocks::{Behind, Norm, classify, conv_norm_activation, squeeze_excitation};
use crate::graph::{Builder, Graph, GraphError, Initializer, NodeId, Op, Square};

/// Widths and depths of the four stages, the width of a group, and whether blocks squeeze and excite (the Y form).
pub(super) struct Design {
    widths: [usize; 4],
    depths: [usize; 4],
    group: usize,
    squeezes: bool,
}

/// RegNetX of 400 million multiplications.
pub(super) const X_400MF: Design =
    Design { widths: [32, 64, 160, 400], depths: [1, 2, 7, 12], group: 16, squeezes: false };

/// RegNetY of 400 million multiplications.
pub(super) const Y_400MF: Design =
    Design { widths: [48, 104, 208, 440], depths: [1, 3, 6, 6], group: 8, squeezes: true };

pub(super) fn regnet(
    name: &str,
    design: &Design,
    shape: [usize; 3],
    classes: usize,
) -> Result<Graph, GraphError> {
    let (mut b, x) = Builder::new(name, shape);
    b.initializers(|_| Initializer::FanOut { groups: 1 }, Initializer::Normal { thousandths: 10 });
    let relu = || Behind::activation(Op::Relu);
    let mut x = conv_norm_activation(&mut b, "stem", x, Square::new(32, 3, 2), Norm::DEFAULT, relu())?;
    for (stage, (&width, &depth)) in design.widths.iter().zip(&design.depths).enumerate() {
        for i in 0..depth {
            let name = format!("trunk_output.block{0}.block{0}-{i}", stage + 1);
            x = block(&mut b, &name, x, design, width, if i == 0 { 2 } else { 1 })?;
        }
    }
    classify(b, x, None, "fc", classes)
}

fn block(
    b: &mut Builder,
    name: &str,
    x: NodeId,
    design: &Design,
    width: usize,
    stride: usize,
) -> Result<NodeId, GraphError> {
    let part = |p: &str| format!("{name}.{p}");
    let (norm, relu) = (Norm::DEFAULT, || Behind::activation(Op::Relu));
    let before = b.channels(x);
    let skip = match before != width || stride != 1 {
        true => {
            conv_norm_activation(b, &part("proj"), x, Square::new(width, 1, stride), norm, Behind::Nothing)?
        }
        false => x,
    };
    let y = conv_norm_activation(b, &part("f.a"), x, Square::new(width, 1, 1), norm, relu())?;
    let grouped = Square { groups: width / design.group.min(width), ..Square::new(width, 3, stride) };
    let mut y = conv_norm_activation(b, &part("f.b"), y, grouped, norm, relu())?;
    if design.squeezes {
        // A quarter of the block's input, rounded half to even as Python does.
        let squeezed = (0.25 * before as f64).round_ties_even() as usize;
        y = squeeze_excitation(b, &part("f.se"), y, squeezed, Op::Relu, Op::Sigmoid)?;
    }
    let y = conv_norm_activation(b, &part("f.c"), y, Square::new(width, 1, 1), norm, Behind::Sum)?;
    let sum = b.push(&part("add"), Op::Add, &[y, skip])?;
    b.push(&part("activation"), Op::Relu, &[sum])
}
