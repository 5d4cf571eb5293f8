//! Collectives that were started and are not waited for yet.

use super::CollectiveError;
use std::time::Instant;

/// When a collective was on the wire: from the moment when this rank's part of it was ready and it had its turn, to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnTheWire {
    /// Its begin.
    pub begun: Instant,
    /// Its end.
    pub ended: Instant,
}

/// Called once a collective has its turn and this rank's part is ready, so that the others are all that it still waits for.
pub type Entered = Box<dyn FnOnce() + Send>;

/// A collective that was started. Those of a group are waited for in the order in which they were started. Where one is dropped
/// before it was waited for, its group is of no more use, as nobody knows what the other ranks have made of it.
pub trait Pending: Send {
    /// Returns once the collective is done, at the deadline of the group, or once it is aborted.
    fn wait(self: Box<Self>) -> Result<OnTheWire, CollectiveError>;
}

/// A collective that was done when it was started.
pub(super) struct Done(pub Result<OnTheWire, CollectiveError>);

impl Pending for Done {
    fn wait(self: Box<Self>) -> Result<OnTheWire, CollectiveError> {
        self.0
    }
}
