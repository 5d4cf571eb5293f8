//! What is being added up over all ranks, and where the sum goes.

use super::OptimError;
use super::buckets::Bucket;
use crate::collective::{Collective, Pending, ReduceOp};
use crate::strategy::ReduceType;
use tch::{Kind, Tensor};

/// A reduction that was started. Where one is dropped before it was waited for, its group is of no more use.
pub(super) struct UnderWay {
    call: Box<dyn Pending>,
    /// What is on its way in another type, and the place of the sum.
    rounded: Option<(Tensor, Tensor)>,
}

impl UnderWay {
    /// Starts to combine a tensor over all ranks.
    pub fn start(collective: &dyn Collective, tensor: &Tensor, op: ReduceOp) -> Result<Self, OptimError> {
        Ok(Self { call: collective.start_all_reduce(tensor, op, Box::new(|| ()))?, rounded: None })
    }

    /// Starts to add up a bucket of the buffer `flat`, in the bucket's type.
    pub fn bucket(collective: &dyn Collective, flat: &Tensor, bucket: Bucket) -> Result<Self, OptimError> {
        let piece = flat.f_narrow(0, bucket.offset, bucket.len)?;
        let kind = match bucket.reduce_type {
            ReduceType::Fp32 => return Self::start(collective, &piece, ReduceOp::Sum),
            ReduceType::Bf16 => Kind::BFloat16,
            ReduceType::Fp16 => Kind::Half,
        };
        let sent = piece.f_to_kind(kind)?;
        let started = Self::start(collective, &sent, ReduceOp::Sum)?;
        Ok(Self { rounded: Some((sent, piece)), ..started })
    }

    /// Returns once the combination is where the tensor was.
    pub fn wait(self) -> Result<(), OptimError> {
        self.call.wait()?;
        if let Some((sent, mut piece)) = self.rounded {
            piece.f_copy_(&sent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl From<Box<dyn Pending>> for UnderWay {
    fn from(call: Box<dyn Pending>) -> Self {
        Self { call, rounded: None }
    }
}
