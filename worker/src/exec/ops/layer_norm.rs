//! Layer normalisation.

use super::super::ExecError;
use super::{Call, Forward};
use crate::graph::LayerNorm;
use tch::{Kind, Tensor};

/// In FP32, as its parameters are.
impl Forward for LayerNorm {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let (gamma, beta) = (call.parameter(0)?, call.parameter(1)?);
        let x = call.x();
        let y =
            x.f_to_kind(Kind::Float)?.f_layer_norm(gamma.size(), Some(gamma), Some(beta), self.eps, false)?;
        Ok(y.f_to_kind(x.kind())?)
    }
}
