//! What ranks do together: how they share a step out, add up, and agree.

use super::gradient_buffer::GradientBuffer;
use super::under_way::UnderWay;
use super::{OptimError, Sharing};
use crate::collective::{Cause, Collective, ReduceOp};
use crate::strategy::Rank;
use std::sync::Arc;
use tch::{Device, Tensor};

/// Why a call was refused: where one before it has failed, that one's error, which says what happened; but what is this rank's
/// own is no consequence of another's.
pub(super) fn cause(under_way: Vec<UnderWay>, refused: OptimError) -> OptimError {
    match &refused {
        OptimError::Collective(e) if matches!(e.cause(), Cause::Peers | Cause::Waited) => (),
        _ => return refused,
    }
    let first = under_way.into_iter().find_map(|call| call.wait().err());
    first.unwrap_or(refused)
}

/// A collective, and how its ranks share out a step.
pub(super) struct Reducer {
    pub collective: Arc<dyn Collective>,
    pub sharing: Sharing,
    /// Whether buckets leave while backward still runs: the same numbers, sooner.
    pub overlaps: bool,
}

impl Reducer {
    /// This rank among all.
    pub fn place(&self) -> Rank {
        Rank { rank: self.collective.rank(), world: self.collective.world_size() }
    }

    /// Whether there is nobody else.
    pub fn alone(&self) -> bool {
        self.collective.world_size() == 1
    }

    /// Whether a step's microbatches are as many as are this rank's.
    pub fn check_local(&self, got: usize) -> Result<(), OptimError> {
        let (place, all) = (self.place(), self.sharing.microbatches);
        let local = place.local_microbatches(all).len();
        if got == local { Ok(()) } else { Err(OptimError::LocalMicrobatches { place, got, all, local }) }
    }

    /// Adds up what a step's microbatches gave, over all ranks, of which some is under way; with `observed`, finds the largest
    /// values of all too.
    pub fn reduce(
        &self,
        gradients: &GradientBuffer,
        mut under_way: Vec<UnderWay>,
        observed: bool,
    ) -> Result<(), OptimError> {
        if let Err(e) = self.start_rest(gradients, &mut under_way, observed) {
            return Err(cause(under_way, e));
        }
        for call in under_way {
            call.wait()?;
        }
        Ok(())
    }

    fn start_rest(
        &self,
        gradients: &GradientBuffer,
        under_way: &mut Vec<UnderWay>,
        observed: bool,
    ) -> Result<(), OptimError> {
        gradients.start_rest(&*self.collective, under_way)?;
        let maxima = &gradients.record.maxima;
        if observed && maxima.numel() > 0 {
            under_way.push(UnderWay::start(&*self.collective, maxima, ReduceOp::Max)?);
        }
        Ok(())
    }

    /// The largest of a number that all ranks have found in the same tensors, each with its own kernels: one number on all,
    /// so that what it decides is the same to the last bit.
    pub fn agreed(&self, found: f64, device: Device) -> Result<f64, OptimError> {
        if self.alone() {
            return Ok(found);
        }
        let largest = Tensor::f_from_slice(&[found])?.f_to_device(device)?;
        self.collective.all_reduce(&largest, ReduceOp::Max)?;
        Ok(largest.f_double_value(&[0])?)
    }

    /// Whether any rank was asked to stop: the same answer on all, which call this in the same places. A rank that
    /// left alone would let the others wait in their next reduction.
    pub fn any(&self, asked: bool, device: Device) -> Result<bool, OptimError> {
        if self.alone() {
            return Ok(asked);
        }
        let any = Tensor::f_from_slice(&[f32::from(u8::from(asked))])?.f_to_device(device)?;
        self.collective.all_reduce(&any, ReduceOp::Max)?;
        Ok(any.f_double_value(&[0])? > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{CollectiveError, OnTheWire, Pending};

    struct Fails(CollectiveError);

    impl Pending for Fails {
        fn wait(self: Box<Self>) -> Result<OnTheWire, CollectiveError> {
            Err(self.0)
        }
    }

    fn failed(cause: Cause, why: &str) -> CollectiveError {
        let (backend, call, rank, number, bytes) = ("gloo", "all_reduce", 0, 1, 4);
        CollectiveError::Failed { backend, call, rank, number, bytes, cause, why: why.into() }
    }

    #[test]
    fn the_first_failure_is_told_but_not_instead_of_one_that_is_this_rank_s_own() {
        for (own, told) in [
            (Cause::Peers, "first"),
            (Cause::Waited, "first"),
            (Cause::Own, "refused"),
            (Cause::Memory, "refused"),
            (Cause::Setup, "refused"),
        ] {
            let first: Box<dyn Pending> = Box::new(Fails(failed(Cause::Waited, "first")));
            let e = cause(vec![first.into()], failed(own, "refused").into());
            assert!(e.to_string().contains(told), "{own:?}: {e}");
        }
        let e = cause(vec![], failed(Cause::Peers, "refused").into());
        assert!(e.to_string().contains("refused"), "{e}");
    }
}
