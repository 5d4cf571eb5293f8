//! What weights are drawn from before training.

use super::ParamKind;
use serde::{Deserialize, Serialize};

/// What the weights of a layer are drawn from before training. The fan-in of a layer is the number of inputs that one of its
/// outputs is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initializer {
    /// By kind: a convolution's normal, of deviation `sqrt(2 / fan-in)` (He et al., arXiv 1502.01852); a fully connected layer's
    /// uniform, up to `1 / sqrt(fan-in)`. PaddlePaddle's ResNet begins so.
    #[default]
    FanIn,
    /// Normal, of deviation `sqrt(2 / fan-out)`, where the fan-out is the elements of a kernel times the outputs of one of so many
    /// groups. torchvision counts all outputs of a grouped convolution, which is `groups: 1`.
    FanOut {
        /// Groups.
        groups: usize,
    },
    /// Uniform, up to `1 / sqrt(outputs)`.
    UniformOutputs,
    /// Normal, of a deviation in thousandths.
    Normal {
        /// Standard deviation times 1000.
        thousandths: u32,
    },
}

/// A distribution around 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// Normal, of this standard deviation.
    Normal(f64),
    /// Uniform, from minus this to this.
    Uniform(f64),
}

impl Initializer {
    /// Whether it is the default, which files leave out.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The distribution of a weight `[outputs, inputs of an output, ...]` of this kind.
    pub fn distribution(self, kind: ParamKind, shape: &[i64]) -> Distribution {
        let outputs = shape.first().copied().unwrap_or(1) as f64;
        let fan_in = shape.iter().skip(1).product::<i64>() as f64;
        let kernel = shape.iter().skip(2).product::<i64>() as f64;
        match self {
            Self::FanIn if kind == ParamKind::ConvWeight => Distribution::Normal((2.0 / fan_in).sqrt()),
            Self::FanIn => Distribution::Uniform((1.0 / fan_in).sqrt()),
            Self::FanOut { groups } => {
                Distribution::Normal((2.0 * groups.max(1) as f64 / (outputs * kernel)).sqrt())
            }
            Self::UniformOutputs => Distribution::Uniform((1.0 / outputs).sqrt()),
            Self::Normal { thousandths } => Distribution::Normal(f64::from(thousandths) / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_those_of_their_sources() {
        let (conv, linear) = (ParamKind::ConvWeight, ParamKind::LinearWeight);
        let near = |i: Initializer, kind, shape: &[i64], wanted: Distribution| {
            let (got, wanted) = match (i.distribution(kind, shape), wanted) {
                (Distribution::Normal(a), Distribution::Normal(b)) => (a, b),
                (Distribution::Uniform(a), Distribution::Uniform(b)) => (a, b),
                (a, b) => panic!("{i:?} of {shape:?}: {a:?}, not {b:?}"),
            };
            assert!((got / wanted - 1.0).abs() < 1e-12, "{i:?} of {shape:?}: {got}, not {wanted}");
        };
        use Distribution::{Normal, Uniform};
        // 64 outputs of 16 channels and 9 elements.
        near(Initializer::FanIn, conv, &[64, 16, 3, 3], Normal((2.0_f64 / 144.0).sqrt()));
        near(Initializer::FanIn, linear, &[10, 64], Uniform(0.125));
        near(Initializer::FanOut { groups: 1 }, conv, &[64, 16, 3, 3], Normal((2.0_f64 / 576.0).sqrt()));
        // Depthwise: all 32 outputs in torchvision, one in TensorFlow.
        near(Initializer::FanOut { groups: 1 }, conv, &[32, 1, 3, 3], Normal((2.0_f64 / 288.0).sqrt()));
        near(Initializer::FanOut { groups: 32 }, conv, &[32, 1, 3, 3], Normal((2.0_f64 / 9.0).sqrt()));
        near(Initializer::UniformOutputs, linear, &[16, 1280], Uniform(0.25));
        near(Initializer::Normal { thousandths: 20 }, linear, &[384, 128], Normal(0.02));
    }
}
