//! What is being added up over all ranks, and where the sum goes.

use super::OptimError;
use super::buckets::Bucket;
use crate::collective::{Collective, Pending, ReduceOp};
use crate::strategy::ReduceType;
use tch::{Kind, Tensor};

/// A reduction that was started. Where one is dropped before it was waited for, its group is of no more use.
pub(super) struct UnderWay {
    call: Box<dyn Pending>,
    rounded: Option<Rounded>,
}

/// What is on its way in another type, and where the sum goes.
struct Rounded {
    sent: Tensor,
    place: Tensor,
}

impl UnderWay {
    /// Starts to combine a tensor over all ranks.
    pub fn start(collective: &dyn Collective, tensor: &Tensor, op: ReduceOp) -> Result<Self, OptimError> {
        Ok(Self { call: collective.start_all_reduce(tensor, op, Box::new(|| ()))?, rounded: None })
    }

    /// Starts to add up a bucket of the buffer `flat`, in the bucket's type where there is anybody else.
    pub fn bucket(collective: &dyn Collective, flat: &Tensor, bucket: Bucket) -> Result<Self, OptimError> {
        let place = flat.f_narrow(0, bucket.offset, bucket.len)?;
        match bucket.reduce_type {
            ReduceType::Bf16 if collective.world_size() > 1 => {
                let sent = place.f_to_kind(Kind::BFloat16)?;
                let started = Self::start(collective, &sent, ReduceOp::Sum)?;
                Ok(Self { rounded: Some(Rounded { sent, place }), ..started })
            }
            ReduceType::Bf16 | ReduceType::Fp32 => Self::start(collective, &place, ReduceOp::Sum),
        }
    }

    /// Returns once the combination is where the tensor was.
    pub fn wait(self) -> Result<(), OptimError> {
        self.call.wait()?;
        if let Some(Rounded { sent, mut place }) = self.rounded {
            place.f_copy_(&sent)?;
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
