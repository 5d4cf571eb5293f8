//! Values that nothing can be measured on.

use super::AnalyzeError;
use crate::native;
use tch::Tensor;

/// An error that names `layer` if a value holds NaN or infinity.
pub(super) fn ensure_finite(layer: &str, value: &Tensor, set: &'static str) -> Result<(), AnalyzeError> {
    let seen = Vec::<f32>::try_from(&native::abs_max(value)?)?;
    match seen[..] {
        [_, count] if count > 0.0 => {
            Err(AnalyzeError::NonFinite { layer: layer.into(), count: count as u64, set })
        }
        _ => Ok(()),
    }
}
