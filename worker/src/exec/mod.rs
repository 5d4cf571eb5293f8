//! Graph to libtorch: weights, initialisation, forward with autograd.

mod calibration;
mod chains;
mod error;
mod evaluator;
mod forward;
mod fused;
mod init;
mod integer;
mod integer_bias;
pub mod ops;
mod prepare;
mod record;
mod weights;

pub use calibration::{Counts, calibrated};
pub use error::ExecError;
#[cfg(feature = "session")]
pub(crate) use error::words;
pub use evaluator::Evaluator;
pub use forward::{Executor, Mode, Pass, Watch};
pub use init::initialise;
pub use prepare::Prepared;
pub use record::Record;
pub use weights::{Weights, WeightsLayout, weight_scales};

use crate::graph::{DType, Layout};
use tch::{Kind, Tensor};

/// libtorch's name of an element type.
pub fn kind(dtype: DType) -> Kind {
    match dtype {
        DType::F32 => Kind::Float,
        DType::Bf16 => Kind::BFloat16,
        DType::F16 => Kind::Half,
    }
}

/// A four-dimensional tensor in the wanted memory order; others as they are.
pub fn with_layout(t: &Tensor, layout: Layout) -> Result<Tensor, tch::TchError> {
    if t.dim() != 4 {
        return Ok(t.shallow_clone());
    }
    match layout {
        Layout::Nchw => t.f_contiguous(),
        Layout::Nhwc => t.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2]),
    }
}
