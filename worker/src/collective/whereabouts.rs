//! Where a rank is among the collectives of its group, for those who find out why nothing goes on.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// What all ranks of a group enter together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The connection of all with all.
    Connect,
    /// The agreement on where to begin.
    Agree,
    /// [`Collective::all_reduce`](super::Collective::all_reduce), waited for at once or later.
    AllReduce,
    /// [`Collective::broadcast`](super::Collective::broadcast).
    Broadcast,
    /// [`Collective::all_gather`](super::Collective::all_gather).
    AllGather,
    /// [`Collective::barrier`](super::Collective::barrier).
    Barrier,
}

impl Operation {
    const ALL: [Self; 6] =
        [Self::Connect, Self::Agree, Self::AllReduce, Self::Broadcast, Self::AllGather, Self::Barrier];
}

/// Where one rank is. It is told without a lock by the threads that enter and wait, and read by any: what is read while something
/// changes may be of two moments, and is of one as soon as nothing changes any more.
#[derive(Debug, Default)]
pub struct Whereabouts {
    entered: AtomicU64,
    /// The place of the last one in [`Operation::ALL`], from 1.
    operation: AtomicU8,
    bytes: AtomicU64,
    waiting: AtomicU32,
}

impl Whereabouts {
    /// An operation is entered, with a tensor of so many bytes: what this rank had to do before it is done.
    pub fn enter(&self, operation: Operation, bytes: usize) {
        let place = Operation::ALL.iter().position(|o| *o == operation).unwrap_or_default();
        self.operation.store(place as u8 + 1, Ordering::Relaxed);
        self.bytes.store(bytes as u64, Ordering::Relaxed);
        self.entered.fetch_add(1, Ordering::SeqCst);
    }

    /// The caller waits for the others until the answer is dropped.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(self)
    }

    /// Operations that were entered so far.
    pub fn entered(&self) -> u64 {
        self.entered.load(Ordering::SeqCst)
    }

    /// The last operation that was entered, if any was, and the bytes of this rank's tensor.
    pub fn last(&self) -> Option<(Operation, u64)> {
        let place = usize::from(self.operation.load(Ordering::Relaxed));
        let operation = Operation::ALL.get(place.checked_sub(1)?)?;
        Some((*operation, self.bytes.load(Ordering::Relaxed)))
    }

    /// Whether a thread waits for the others now.
    pub fn waits(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

/// See [`Whereabouts::wait`].
#[must_use = "dropping it ends the wait"]
#[derive(Debug)]
pub struct Waiting<'a>(&'a Whereabouts);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_where_it_was_last_and_waits_as_long_as_it_says() {
        let at = Whereabouts::default();
        assert_eq!((at.entered(), at.last(), at.waits()), (0, None, false));
        for (n, operation) in (1..).zip(Operation::ALL) {
            at.enter(operation, 8);
            assert_eq!((at.entered(), at.last()), (n, Some((operation, 8))));
        }
        let (first, second) = (at.wait(), at.wait());
        drop(first);
        assert!(at.waits());
        drop(second);
        assert!(!at.waits());
    }
}
