//! How processes of Octrain tell their scheduler how they ended: one table for coordinator, launcher and workers.
//! [`TABLE`] is the only place where it stands; `--help` prints it.
//!
//! The coordinator ends as its job did: 4 as well when a worker left because it was asked to stop, 3 when a worker was
//! lost or the output folder was another run's, 1 when a worker said that it failed or
//! workers did not come in the time that they were given: nothing else would ever end that wait for good. A worker that
//! was there meanwhile ends with 3; but with 1, like the coordinator, where the training's numbers are not finite any
//! more, which is no worker's fault and comes again.

use crate::job::{Outcome, Retirement};
use octrain_proto::v1::AbortKind;
use std::time::Duration;

/// A signal within this time of the first one is the same request, come by another way.
pub const ECHO: Duration = Duration::from_secs(1);

/// Done.
pub const EXIT_OK: u8 = 0;
/// Failed for a reason of its own that may be another the next time: a full disk (whether it is found so at the start or
/// later), data that cannot be read, a damaged checkpoint, a defect.
pub const EXIT_ERROR: u8 = 1;
/// Usage, or a configuration that cannot be run, with what it names: data with too many corrupt images, a file that is no
/// checkpoint, an output folder that cannot be written. A scheduler must not try again.
pub const EXIT_CONFIGURATION: u8 = 2;
/// Ended because of another process, of the job or outside it (another run that uses the output folder): try again.
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
        Outcome::Retired { why: Retirement::Superseded(_) } => EXIT_ABORTED,
        Outcome::Retired { why: Retirement::Journal(_) } => EXIT_ERROR,
        Outcome::Failed { abort } => match abort.kind() {
            AbortKind::WorkerFailed | AbortKind::RegisterTimeout | AbortKind::NotFinite => EXIT_ERROR,
            AbortKind::Configuration => EXIT_CONFIGURATION,
            AbortKind::WorkerLost | AbortKind::External | AbortKind::Dropped => EXIT_ABORTED,
            AbortKind::Shutdown => EXIT_PREEMPTED,
        },
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The exit code.
    pub code: u8,
    /// What it means, in a few words.
    pub meaning: &'static str,
    /// Whether a scheduler should start the process again.
    pub again: &'static str,
}

/// All codes, in ascending order.
pub const TABLE: [Row; 6] = [
    Row { code: EXIT_OK, meaning: "done", again: "no" },
    Row {
        code: EXIT_ERROR,
        meaning: "failed; its message says why",
        again: "as you like: it goes on from the last checkpoint",
    },
    Row {
        code: EXIT_CONFIGURATION,
        meaning: "usage, or settings, data or files that cannot be used",
        again: "no: it would end the same way",
    },
    Row {
        code: EXIT_ABORTED,
        meaning: "because of another process; saved where there was something to save",
        again: "yes",
    },
    Row {
        code: EXIT_PREEMPTED,
        meaning: "asked to stop; saved where there was something to save",
        again: "yes",
    },
    Row {
        code: EXIT_INTERRUPTED,
        meaning: "at once, by a second signal, without saving",
        again: "yes: it goes on from the last checkpoint",
    },
];

/// What a code means; none for a code that is not in the table.
pub fn meaning(code: u8) -> Option<&'static str> {
    TABLE.iter().find(|row| row.code == code).map(|row| row.meaning)
}

/// The table as `--help` shows it.
pub fn help() -> String {
    let mut text = String::from("Exit codes (start it again?):");
    for Row { code, meaning, again } in TABLE {
        text.push_str(&format!("\n  {code:>3}  {meaning} ({again})"));
    }
    text
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
            (failed(AbortKind::RegisterTimeout), 1),
            (failed(AbortKind::Shutdown), 4),
            (failed(AbortKind::NotFinite), 1),
            (failed(AbortKind::External), 3),
            (failed(AbortKind::Dropped), 3),
            (Outcome::Retired { why: Retirement::Superseded(String::new()) }, 3),
            (Outcome::Retired { why: Retirement::Journal(String::new()) }, 1),
        ] {
            assert_eq!(of(&outcome), code, "{outcome:?}");
        }
    }

    #[test]
    fn every_code_has_a_row_and_codes_ascend() {
        assert!(TABLE.windows(2).all(|w| w[0].code < w[1].code));
        let text = help();
        for code in [EXIT_OK, EXIT_ERROR, EXIT_CONFIGURATION, EXIT_ABORTED, EXIT_PREEMPTED, EXIT_INTERRUPTED]
        {
            assert!(meaning(code).is_some() && text.contains(&format!("\n  {code:>3}  ")), "{code}");
        }
        assert_eq!(meaning(7), None);
    }
}
