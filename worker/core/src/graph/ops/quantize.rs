//! The activation quantizer.

use super::super::TensorType;
use super::operator::kept;
use super::{Given, Operator, Shapes, Site};
use crate::quant::scheme::{Scheme, Sign};
use crate::strategy::Target;
use serde::{Deserialize, Serialize};

/// An activation quantizer: observes, and fake-quantizes if active. Its state is the range `<name>.absmax`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantizer {
    /// Name of the observed value, and of the quantizer: the node whose value it reads.
    pub name: String,
    /// How it quantizes.
    pub scheme: Scheme,
    /// Fake-quantizes (else it only observes, so that other profiles can be written).
    pub active: bool,
}

impl Operator for Quantizer {
    fn kind(&self) -> &'static str {
        "Quantize"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        self.scheme.check_activation().map_err(|e| e.to_string())?;
        Ok(given.inputs[0].clone())
    }

    /// One that only observes changes nothing.
    fn hands_on(&self) -> bool {
        !self.active
    }

    fn sign(&self, inputs: &[Sign]) -> Sign {
        kept(inputs)
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn describe(&self, _: &Shapes) -> String {
        let (what, scheme) = (if self.active { "Quantize" } else { "Observe" }, self.scheme);
        format!("{what}[{:?}, {} to {}]", scheme.sign, scheme.qmin(), scheme.qmax())
    }
}
