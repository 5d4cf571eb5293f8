//! How libtorch runs each operator: one file an operator or family, beside its facts in `graph::ops`.

mod activation;
mod add;
mod batch_norm;
mod call;
mod cast;
mod concat;
mod conv;
mod flatten;
mod input;
mod linear;
mod pool;
mod product;
mod quantize;
mod registry;

pub use call::Call;
pub use product::product;
pub use registry::register;

use super::ExecError;
use crate::graph::{Node, Op};
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

/// How libtorch runs a node's operator; one from outside of which nothing says how is an error.
pub(super) fn of(node: &Node) -> Result<&dyn Forward, ExecError> {
    Ok(match &node.op {
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
        Op::Custom(custom) => registry::of(&node.name, custom)?,
    })
}
