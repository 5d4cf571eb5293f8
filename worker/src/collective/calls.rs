//! When a rank's collectives began and ended, for traces.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// One collective, on this rank: from the moment when it had its turn and what this rank had to do before it was done, to its
/// end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Size of this rank's tensor in bytes, whatever goes over the wire for it.
    pub bytes: usize,
    /// Its begin.
    pub begun: Instant,
    /// Its end.
    pub ended: Instant,
}

/// The calls of a [`Counted`](super::Counted) collective since they were last taken.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// More than a step has; what goes beyond is not kept.
    pub(super) const MOST: usize = 4096;

    /// Those there are, which are forgotten.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn add(&self, call: Call) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < Self::MOST {
            all.push(call);
        }
    }
}
