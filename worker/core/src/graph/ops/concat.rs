//! Values joined along a dimension.

use super::super::TensorType;
use super::operator::kept;
use super::{Arity, Given, OnnxInput, OnnxNode, OnnxScope, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// Two or more values joined along one dimension: `[C1, H, W], [C2, H, W] -> [C1 + C2, H, W]` along dimension 0. Its value is
/// quantized where it is read, with one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concat {
    /// The dimension, counted without the batch: 0 are channels.
    pub axis: usize,
}

impl Operator for Concat {
    fn kind(&self) -> &'static str {
        "Concat"
    }

    fn arity(&self) -> Arity {
        Arity::AtLeast(2)
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let first = given.inputs[0];
        let mut shape = first.shape.clone();
        if self.axis >= shape.len() {
            return Err(format!("joins along dimension {} of {first}", self.axis));
        }
        for other in &given.inputs[1..] {
            let mut alike = other.shape.clone();
            let side = alike.get(self.axis).copied().unwrap_or(0);
            if let Some(there) = alike.get_mut(self.axis) {
                *there = first.shape[self.axis];
            }
            let sum = shape[self.axis].checked_add(side);
            match sum.filter(|_| alike == first.shape && other.dtype == first.dtype) {
                Some(sum) => shape[self.axis] = sum,
                None => return Err(format!("joins {first} and {other}")),
            }
        }
        Ok(TensorType { shape, dtype: first.dtype })
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        let integers = target.integer_neighbours() && site.is_convolutional();
        Some(if integers { (0..site.absorbing.len()).collect() } else { vec![] })
    }

    fn onnx(&self, scope: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        if scope.reads_constant {
            return Err("it joins a parameter or constants, whose batch is 1 in a file; \
                        a token that stands before all others is a ClassToken"
                .into());
        }
        Ok(vec![OnnxNode::new("Concat", vec![OnnxInput::Values]).int("axis", 1 + self.axis as i64)])
    }

    fn describe(&self, _: &Shapes) -> String {
        if self.axis == 0 { "Concat".into() } else { format!("Concat[{}]", self.axis) }
    }
}
