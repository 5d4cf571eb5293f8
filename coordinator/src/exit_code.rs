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
//!
//! The coordinator ends as its job did: 4 as well when a worker left because it was asked to stop, 3 when a worker was
//! lost or did not come, 1 when a worker said that it failed.

use crate::job::Outcome;
use octrain_proto::v1::AbortKind;

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

/// The coordinator's exit code for the way its job ended.
pub fn of(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Finished { interrupted: false } => EXIT_OK,
        Outcome::Finished { interrupted: true } => EXIT_PREEMPTED,
        Outcome::Failed { abort } => match abort.kind() {
            AbortKind::WorkerFailed => EXIT_ERROR,
            AbortKind::Configuration => EXIT_CONFIGURATION,
            AbortKind::WorkerLost | AbortKind::RegisterTimeout => EXIT_ABORTED,
            AbortKind::Shutdown => EXIT_PREEMPTED,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use octrain_proto::v1::Abort;

    #[test]
    fn the_coordinator_ends_as_its_job_did() {
        let failed =
            |kind: AbortKind| Outcome::Failed { abort: Abort { kind: kind.into(), ..Abort::default() } };
        for (outcome, code) in [
            (Outcome::Finished { interrupted: false }, 0),
            (Outcome::Finished { interrupted: true }, 4),
            (failed(AbortKind::WorkerFailed), 1),
            (failed(AbortKind::Configuration), 2),
            (failed(AbortKind::WorkerLost), 3),
            (failed(AbortKind::RegisterTimeout), 3),
            (failed(AbortKind::Shutdown), 4),
        ] {
            assert_eq!(of(&outcome), code, "{outcome:?}");
        }
    }
}
