//! How processes of Octrain tell their scheduler how they ended: one table for coordinator, launcher and workers.
//!
//! | code | meaning | start it again? |
//! | --- | --- | --- |
//! | 0 | done | no |
//! | 1 | failed while running | as the scheduler likes: it goes on from the last checkpoint |
//! | 2 | usage, or a configuration that cannot be run | no: it would end the same way |
//! | 3 | ended because of another process of the job, or of the coordinator; the state is saved where there is one | yes |
//! | 4 | asked to stop by a signal (preempted, drained, Ctrl-C); the state is saved where there is one | yes |
//! | 130 | ended at once by a second signal, without saving | yes: it goes on from the last checkpoint |

/// Done.
pub const EXIT_OK: u8 = 0;
/// Failed while running, for a reason of its own.
pub const EXIT_ERROR: u8 = 1;
/// Usage, or a configuration that cannot be run: a scheduler must not try again.
pub const EXIT_CONFIGURATION: u8 = 2;
/// Ended because of another process of the job: try again.
pub const EXIT_ABORTED: u8 = 3;
/// Asked to stop by a signal, with everything saved: try again.
pub const EXIT_PREEMPTED: u8 = 4;
/// Ended at once by a second signal, without saving.
pub const EXIT_INTERRUPTED: u8 = 130;
