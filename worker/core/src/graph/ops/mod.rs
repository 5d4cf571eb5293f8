//! The table of operators: what Octrain knows of each, one file an operator or family.
//!
//! An [`Op`] is an operator with its attributes; [`Op::facts`] is where everyone else learns what it does. How libtorch
//! runs it stands in `exec::ops` of the package `octrain`.

mod activation;
mod arithmetic;
mod attention;
mod batch_norm;
mod cast;
mod concat;
mod conv;
mod custom;
mod input;
mod layer;
mod layer_norm;
mod linear;
mod onnx;
mod operator;
mod padding;
mod pool;
mod quantize;
mod random;
mod shape;
mod value;

pub use activation::Clip;
pub use arithmetic::Scale;
pub use attention::MatMul;
pub use batch_norm::BatchNorm;
pub use cast::Cast;
pub use concat::Concat;
pub use conv::Conv;
pub use custom::{Custom, CustomOperator, KindTaken, register};
pub use layer::Layer;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use onnx::{OnnxAttribute, OnnxInput, OnnxNode, OnnxScope};
pub use operator::{Arity, Given, Operator, Shapes, Site, windows};
pub use padding::Padding;
pub use pool::{AvgPool, Window};
pub use quantize::Quantizer;
pub use random::{Dropout, StochasticDepth};
pub use shape::{Pad, Reshape, Slice, Transpose};
pub use value::{ClassToken, Constant, Parameter};

use serde::{Deserialize, Serialize};

/// Operators. Weights and statistics are named parameters of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// The image batch.
    Input,
    /// Two-dimensional convolution, weight `[out, in / groups, kh, kw]`.
    Conv(Conv),
    /// `y = x W^T + b` over the last dimension, weight `[out, in]`.
    Linear(Linear),
    /// Batch normalisation over all but the channel dimension.
    BatchNorm(BatchNorm),
    /// Layer normalisation over the last dimension.
    LayerNorm(LayerNorm),
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, min), max)`: ReLU6.
    Clip(Clip),
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `min(max(x / 6 + 1 / 2, 0), 1)`.
    HardSigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * hard_sigmoid(x)`.
    HardSwish,
    /// `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// Maximum over windows.
    MaxPool(Window),
    /// Mean over windows.
    AvgPool(AvgPool),
    /// Mean over height and width: `[C, H, W] -> [C, 1, 1]`.
    GlobalAvgPool,
    /// All in one row: `[C, H, W] -> [C * H * W]`.
    Flatten,
    /// Another shape.
    Reshape(Reshape),
    /// Dimensions in another order.
    Transpose(Transpose),
    /// A part along one dimension.
    Slice(Slice),
    /// Zeros around it.
    Pad(Pad),
    /// Sum of two values, broadcast.
    Add,
    /// Product of two values, broadcast.
    Mul,
    /// Times a number.
    Scale(Scale),
    /// Two or more values joined along a dimension.
    Concat(Concat),
    /// Matrix product of two values.
    MatMul(MatMul),
    /// Exponentials over their sum, along the last dimension.
    Softmax,
    /// Numbers left out at random in training.
    Dropout(Dropout),
    /// Images' values left out at random in training.
    StochasticDepth(StochasticDepth),
    /// A parameter as a value.
    Parameter(Parameter),
    /// Numbers that are not trained.
    Constant(Constant),
    /// One token before all others.
    ClassToken(ClassToken),
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
            Op::LayerNorm(norm) => norm,
            Op::Relu => &activation::RELU,
            Op::Clip(clip) => clip,
            Op::Sigmoid => &activation::SIGMOID,
            Op::HardSigmoid => &activation::HARD_SIGMOID,
            Op::Silu => &activation::SILU,
            Op::HardSwish => &activation::HARD_SWISH,
            Op::Gelu => &activation::GELU,
            Op::MaxPool(window) => window,
            Op::AvgPool(pool) => pool,
            Op::GlobalAvgPool => &pool::GlobalAvgPool,
            Op::Flatten => &shape::Flatten,
            Op::Reshape(reshape) => reshape,
            Op::Transpose(transpose) => transpose,
            Op::Slice(slice) => slice,
            Op::Pad(pad) => pad,
            Op::Add => &arithmetic::Add,
            Op::Mul => &arithmetic::Mul,
            Op::Scale(scale) => scale,
            Op::Concat(concat) => concat,
            Op::MatMul(product) => product,
            Op::Softmax => &attention::Softmax,
            Op::Dropout(dropout) => dropout,
            Op::StochasticDepth(depth) => depth,
            Op::Parameter(parameter) => parameter,
            Op::Constant(constant) => constant,
            Op::ClassToken(token) => token,
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
}

#[cfg(test)]
mod tests;
