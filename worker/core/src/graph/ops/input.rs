//! The image batch.

use super::super::TensorType;
use super::{Arity, Given, Operator, Site};
use crate::strategy::Target;

/// The graph's input; its type is the one it is declared with.
#[derive(Debug)]
pub(super) struct Input;

impl Operator for Input {
    fn kind(&self) -> &'static str {
        "Input"
    }

    fn arity(&self) -> Arity {
        Arity::Exactly(0)
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.declared.clone())
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }
}
