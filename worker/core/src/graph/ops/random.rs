//! What is left out at random in training. Outside training both do nothing, and files do not have them. Codes pass through
//! them: a quantizer stands before them, so that its range is that of what is deployed.

use super::super::TensorType;
use super::{Given, OnnxNode, OnnxScope, Operator, Shapes};
use serde::{Deserialize, Serialize};

/// Leaves out each number with probability `p` and divides the others by `1 - p` (Srivastava et al., JMLR 15, 2014).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// The probability, from 0 to below 1.
    pub p: f32,
}

/// Leaves out the whole value of an image with probability `p` and divides it by `1 - p` otherwise: a residual branch that is
/// skipped (Huang et al., arXiv 1603.09382).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StochasticDepth {
    /// The probability, from 0 to below 1.
    pub p: f32,
}

fn same(given: &Given, p: f32) -> Result<TensorType, String> {
    match (0.0..1.0).contains(&p) {
        true => Ok(given.inputs[0].clone()),
        false => Err(format!("probability {p} is not from 0 to below 1")),
    }
}

/// The facts that both have.
macro_rules! left_out {
    ($operator:ty, $kind:literal) => {
        impl Operator for $operator {
            fn kind(&self) -> &'static str {
                $kind
            }

            fn infer(&self, given: &Given) -> Result<TensorType, String> {
                same(given, self.p)
            }

            fn hands_on(&self) -> bool {
                true
            }

            fn only_in_training(&self) -> bool {
                true
            }

            fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
                Ok(vec![])
            }

            fn describe(&self, _: &Shapes) -> String {
                format!(concat!($kind, "[{}]"), self.p)
            }
        }
    };
}

left_out!(Dropout, "Dropout");
left_out!(StochasticDepth, "StochasticDepth");
