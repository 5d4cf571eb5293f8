//! Values joined along the channels.

use super::super::TensorType;
use super::operator::kept;
use super::{Arity, Given, OnnxInput, OnnxNode, Operator, Shapes, Site};
use crate::quant::scheme::Sign;
use crate::strategy::Target;

/// `[C1, H, W], [C2, H, W] -> [C1 + C2, H, W]`. Its value is quantized where it is read, with one scale.
#[derive(Debug)]
pub(super) struct Concat;

impl Operator for Concat {
    fn kind(&self) -> &'static str {
        "Concat"
    }

    fn arity(&self) -> Arity {
        Arity::AtLeast(2)
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let first = given.inputs[0];
        let [mut channels, h, w] = given.image(0)?;
        for slot in 1..given.inputs.len() {
            let other = given.inputs[slot];
            match given.image(slot)? {
                [c, oh, ow] if [oh, ow] == [h, w] && other.dtype == first.dtype => channels += c,
                _ => return Err(format!("joins {first} and {other}")),
            }
        }
        Ok(TensorType { shape: vec![channels, h, w], dtype: first.dtype })
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, target: Target, site: &Site) -> Option<Vec<usize>> {
        Some(if target.integer_neighbours() { (0..site.absorbing.len()).collect() } else { vec![] })
    }

    fn onnx(&self, _: &Shapes) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::new("Concat", vec![OnnxInput::Values]).int("axis", 1)])
    }
}
