//! Buckets that leave while backward still runs: each as soon as its last gradient is there and all before it have left, so
//! that they leave in the same order on every rank, whatever backward does first.

use super::OptimError;
use super::buckets::Bucket;
use super::gradient_buffer::GradientBuffer;
use super::reducer::cause;
use super::under_way::UnderWay;
use crate::collective::Collective;
use crate::exec::ExecError;
use crate::native::on_gradient;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{TchError, Tensor};

/// Where a gradient goes.
pub(super) struct Destination {
    /// Its part of the buffer.
    pub view: Tensor,
    /// Whether it is copied there, or added to what is there.
    pub copies: bool,
    /// Its bucket.
    pub bucket: usize,
}

impl Destination {
    /// Takes a gradient.
    pub fn take(&mut self, gradient: &Tensor) -> Result<(), TchError> {
        match self.copies {
            true => self.view.f_copy_(gradient),
            false => self.view.f_add_(gradient).map(drop),
        }
    }
}

struct State {
    collective: Arc<dyn Collective>,
    flat: Tensor,
    buckets: Vec<Bucket>,
    /// One a parameter; none once its gradient is there.
    awaited: Vec<Option<Destination>>,
    /// Of each bucket, how many gradients are awaited.
    missing: Vec<usize>,
    under_way: Vec<UnderWay>,
    failed: Option<OptimError>,
}

impl State {
    fn come(&mut self, parameter: usize, gradient: &Tensor) -> Result<(), OptimError> {
        // An undefined gradient is none, and one that comes twice would be another backward's.
        if self.failed.is_some() || !gradient.defined() {
            return Ok(());
        }
        let Some(mut destination) = self.awaited[parameter].take() else { return Ok(()) };
        destination.take(gradient)?;
        self.missing[destination.bucket] -= 1;
        // What rides behind the gradients, in the last bucket, is known after backward.
        while self.under_way.len() + 1 < self.buckets.len() && self.missing[self.under_way.len()] == 0 {
            let bucket = self.buckets[self.under_way.len()];
            let call = UnderWay::bucket(&*self.collective, &self.flat, bucket)?;
            self.under_way.push(call);
        }
        Ok(())
    }
}

/// The departures of one backward: the last that a rank runs in a step. Where it is dropped with calls under way, as by a backward
/// that failed, their group is left: whoever tells of the failure gives it up then, and not before the others could hear why.
pub(super) struct Departures(Arc<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Departures {
    /// From now on the gradients of `leaves`, the parameters' in the order of the buffer, go into it as they come, and its
    /// buckets leave by `collective`.
    pub fn begin(
        leaves: &[Tensor],
        buffer: &mut GradientBuffer,
        collective: &Arc<dyn Collective>,
    ) -> Result<Self, OptimError> {
        let (flat, buckets, destinations) = buffer.destinations();
        let mut missing = vec![0; buckets.len()];
        destinations.iter().for_each(|d| missing[d.bucket] += 1);
        let state = State {
            collective: Arc::clone(collective),
            flat,
            buckets,
            awaited: destinations.into_iter().map(Some).collect(),
            missing,
            under_way: Vec::new(),
            failed: None,
        };
        let state = Arc::new(Mutex::new(state));
        for (parameter, leaf) in leaves.iter().enumerate() {
            let state = Arc::clone(&state);
            let come = move |gradient: &Tensor| {
                let mut state = lock(&state);
                if let Err(e) = state.come(parameter, gradient) {
                    state.failed = Some(e);
                }
            };
            on_gradient(leaf, come)
                .map_err(|source| ExecError::Native { node: "the gradients' buckets".into(), source })?;
        }
        Ok(Self(state))
    }

    /// Backward is over: what has left, in order. `names` are the parameters'; one whose gradient has not come is an error.
    pub fn end(self, names: impl Iterator<Item = String>) -> Result<Vec<UnderWay>, OptimError> {
        let mut state = lock(&self.0);
        if let Some(e) = state.failed.take() {
            return Err(cause(std::mem::take(&mut state.under_way), e));
        }
        match names.zip(&state.awaited).find(|(_, awaited)| awaited.is_some()) {
            Some((name, _)) => {
                let what = "has no gradient: the loss does not depend on it".into();
                Err(ExecError::State { name, what }.into())
            }
            None => Ok(std::mem::take(&mut state.under_way)),
        }
    }
}

impl Drop for Departures {
    /// Hooks may keep the rest for longer.
    fn drop(&mut self) {
        lock(&self.0).under_way.clear();
    }
}
