//! How libtorch runs each operator: one file an operator or family, beside its facts in `graph::ops`.

mod activation;
mod arithmetic;
mod attention;
mod batch_norm;
mod call;
mod cast;
mod concat;
mod conv;
mod input;
mod layer_norm;
mod linear;
mod pool;
mod product;
mod quantize;
mod random;
mod registry;
mod shape;
mod value;

pub(super) use batch_norm::ensure_variance;
pub use call::Call;
pub use product::product;
pub(super) use quantize::quantize;
pub use registry::register;

use super::ExecError;
use crate::graph::{Clip, Node, Op};
use crate::native::Cut;
use tch::Tensor;

/// An operator that libtorch can run. Its facts ([`crate::graph::Operator`]) say what it makes; this makes it.
pub trait Forward {
    /// Its value, of the type that its facts infer, with the batch dimension first. Autograd differentiates it where
    /// gradients are enabled. An error of libtorch's gets the name of the node.
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError>;

    /// Whether its value may be overwritten by the only node that reads it: backward does not need the value, and no other
    /// tensor shares its memory.
    fn value_is_free(&self) -> bool {
        false
    }
}

/// A part of what [`crate::native::pointwise`] does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stage {
    /// Batch normalisation.
    Norm {
        /// Added to the variance.
        eps: f64,
    },
    /// The sum of two values.
    Sum,
    /// An activation that cuts.
    Cut(Cut),
    /// The quantizer, or observer, of a value.
    Quantize,
}

/// What an operator does to each element by itself, if that is one of the things that neighbours do together
/// (`exec::chains`).
pub(super) fn stage(op: &Op) -> Option<Stage> {
    match op {
        Op::BatchNorm(norm) => Some(Stage::Norm { eps: norm.eps }),
        Op::Add => Some(Stage::Sum),
        Op::Relu => Some(Stage::Cut(Cut { low: 0.0, high: f32::INFINITY, strict: true })),
        Op::Clip(c) => Some(Stage::Cut(Cut { low: c.min, high: c.max, strict: *c == Clip::RELU6 })),
        Op::Quantize(_) => Some(Stage::Quantize),
        _ => None,
    }
}

/// How libtorch runs a node's operator; one from outside of which nothing says how is an error.
pub(super) fn of(node: &Node) -> Result<&dyn Forward, ExecError> {
    Ok(match &node.op {
        Op::Input => &input::Input,
        Op::Conv(conv) => conv,
        Op::Linear(linear) => linear,
        Op::BatchNorm(norm) => norm,
        Op::LayerNorm(norm) => norm,
        Op::Relu => &activation::Relu,
        Op::Clip(clip) => clip,
        Op::Sigmoid => &activation::Sigmoid,
        Op::HardSigmoid => &activation::HardSigmoid,
        Op::Silu => &activation::Silu,
        Op::HardSwish => &activation::HardSwish,
        Op::Gelu => &activation::Gelu,
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
        Op::Custom(custom) => registry::of(&node.name, custom)?,
    })
}
