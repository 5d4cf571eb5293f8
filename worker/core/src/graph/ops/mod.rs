//! The table of operators: what Octrain knows of each, one file an operator or family.
//!
//! An [`Op`] is an operator with its attributes; [`Op::facts`] is where everyone else learns what it does. How libtorch
//! runs it stands in `exec::ops` of the package `octrain`.

mod activation;
mod add;
mod batch_norm;
mod cast;
mod concat;
mod conv;
mod custom;
mod flatten;
mod input;
mod layer;
mod linear;
mod onnx;
mod operator;
mod pool;
mod quantize;

pub use batch_norm::BatchNorm;
pub use cast::Cast;
pub use conv::Conv;
pub use custom::{Custom, CustomOperator, KindTaken, register};
pub use layer::Layer;
pub use linear::Linear;
pub use onnx::{OnnxAttribute, OnnxInput, OnnxNode};
pub use operator::{Arity, Given, Operator, Shapes, Site, windows};
pub use pool::Window;
pub use quantize::Quantizer;

use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// Operators. Weights and statistics are named parameters of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// The image batch.
    Input,
    /// Two-dimensional convolution, weight `[out, in / groups, kh, kw]`.
    Conv(Conv),
    /// `y = x W^T + b`, weight `[out, in]`.
    Linear(Linear),
    /// Batch normalisation over all but the channel dimension.
    BatchNorm(BatchNorm),
    /// `max(x, 0)`.
    Relu,
    /// Maximum over windows.
    MaxPool(Window),
    /// Mean over height and width: `[C, H, W] -> [C, 1, 1]`.
    GlobalAvgPool,
    /// `[C, H, W] -> [C * H * W]`.
    Flatten,
    /// Sum of two values of one type.
    Add,
    /// Two or more values joined along the channels: `[C1, H, W], [C2, H, W] -> [C1 + C2, H, W]`.
    Concat,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Activation quantizer: observes, and fake-quantizes if active.
    Quantize(Quantizer),
    /// Change of element type.
    Cast(Cast),
    /// An operator from outside.
    Custom(Custom),
}

impl Op {
    /// An operator of one's own, to be pushed like Octrain's.
    pub fn custom(operator: impl CustomOperator) -> Self {
        Op::Custom(Custom::new(operator))
    }

    /// What is known of the operator.
    pub fn facts(&self) -> &dyn Operator {
        match self {
            Op::Input => &input::Input,
            Op::Conv(conv) => conv,
            Op::Linear(linear) => linear,
            Op::BatchNorm(norm) => norm,
            Op::Relu => &activation::Relu,
            Op::MaxPool(window) => window,
            Op::GlobalAvgPool => &pool::GlobalAvgPool,
            Op::Flatten => &flatten::Flatten,
            Op::Add => &add::Add,
            Op::Concat => &concat::Concat,
            Op::Sigmoid => &activation::Sigmoid,
            Op::Quantize(quantizer) => quantizer,
            Op::Cast(cast) => cast,
            Op::Custom(custom) => custom.facts(),
        }
    }

    /// Name of the operator: [`Operator::kind`].
    pub fn kind(&self) -> &'static str {
        self.facts().kind()
    }

    /// Names of the parameters it reads: [`Operator::params`].
    pub fn params(&self) -> Vec<&str> {
        self.facts().params()
    }

    /// Weight and bias of a product with a weight: [`Operator::layer`].
    pub fn layer(&self) -> Option<&Layer> {
        self.facts().layer()
    }

    /// [`Op::layer`], to be changed by passes.
    pub fn layer_mut(&mut self) -> Option<&mut Layer> {
        match self {
            Op::Conv(conv) => conv.layer_mut(),
            Op::Linear(linear) => linear.layer_mut(),
            Op::Custom(custom) => custom.layer_mut(),
            _ => None,
        }
    }

    /// Whether some target computes it from quantized inputs, or no rule says how: what `--qat-skip` can leave in floating
    /// point. `inputs` is how many it has.
    pub fn can_be_skipped(&self, inputs: usize) -> bool {
        let site = Site { absorbing: vec![0; inputs] };
        let rules = Target::ALL.iter().map(|&target| self.facts().quantized_inputs(target, &site));
        rules.into_iter().any(|rule| rule.is_none_or(|slots| !slots.is_empty()))
    }
}

#[cfg(test)]
mod tests;
