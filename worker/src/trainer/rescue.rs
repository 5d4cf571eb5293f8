//! What a worker does when another process, or its data, has ended the job: it saves what it has. A failed step changes
//! nothing, so every survivor's state is that after a whole number of steps. Where the training itself has failed, by
//! numbers that are not finite, nobody saves: the state after the last whole step is what led there, and could take the
//! place of a good checkpoint.

use super::{Run, TrainError};
use crate::checkpoint::{self, CheckpointError, Snapshot};
use crate::launcher::watchdog::{Phase, doing};
use crate::session::{AbortKind, FailureKind};
use std::path::PathBuf;

/// The rank that saves: the lowest one that is not the cause of the end, which is mostly gone. One that is alone saves
/// whatever it was. None does where the numbers are worthless on all. `end` is the coordinator's verdict, where it came.
fn saver(world: u32, end: Option<AbortKind>, culprit: Option<u32>) -> Option<u32> {
    if end == Some(AbortKind::NotFinite) {
        return None;
    }
    if world == 1 {
        return Some(0);
    }
    (0..world).find(|&rank| Some(rank) != culprit)
}

impl Run<'_> {
    /// Saves if the end of the run is another process's fault or that of the data (a mount that went away), there are
    /// steps that no checkpoint holds, and this rank is the one to save. What cannot be saved is said; the error that
    /// ended the run stays the cause. After any other error of its own a worker's numbers are not to be trusted.
    pub(super) fn rescue(&mut self, end: &TrainError) {
        let kind = end.kind();
        let whole = matches!(kind, FailureKind::Communication | FailureKind::Waited)
            || matches!(end, TrainError::Data(_));
        if !whole || self.position == self.kept {
            return;
        }
        let plan = self.session.plan();
        let culprit = self.session.blame(&end.to_string(), kind);
        let step = self.position.global_step;
        let Some(rank) = saver(plan.world_size, self.session.abort_kind(), culprit) else {
            tracing::info!("step {step} is not saved: what it led to is not finite");
            return;
        };
        if rank != plan.rank {
            tracing::info!("rank {rank} is the one to save step {step}");
            return;
        }
        if self.program.global_step != step {
            // Ranks that hold different numbers after a step: which are right is not known.
            tracing::error!("nothing was saved: step {} was not confirmed by all ranks", step + 1);
            return;
        }
        let _doing = doing(Phase::Saving);
        self.program.abandon();
        let saved = self.snapshot(None).and_then(|s| Ok(self.write(&s)?));
        match saved {
            Ok(path) => tracing::warn!("saved {} (step {step}), though the job was ended", path.display()),
            Err(e) => tracing::error!("step {step} was not saved: {e}"),
        }
    }

    /// Writes as the run that all ranks are of.
    fn write(&mut self, snapshot: &Snapshot) -> Result<PathBuf, CheckpointError> {
        match &mut self.folder {
            Some(folder) => folder.save(snapshot),
            None => checkpoint::save_for(&self.config.output_dir, self.run.as_ref(), snapshot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::saver;
    use crate::session::AbortKind;

    #[test]
    fn the_lowest_rank_that_is_not_to_blame_saves() {
        for end in [AbortKind::WorkerFailed, AbortKind::WorkerLost, AbortKind::Shutdown].map(Some) {
            assert_eq!(saver(4, end, None), Some(0));
            assert_eq!(saver(4, end, Some(2)), Some(0));
            assert_eq!(saver(4, end, Some(0)), Some(1));
            assert_eq!(saver(1, end, Some(0)), Some(0));
            assert_eq!(saver(2, end, Some(1)), Some(0));
        }
        assert_eq!(saver(2, None, None), Some(0));
    }

    #[test]
    fn nobody_saves_numbers_that_led_to_nan() {
        for (world, culprit) in [(1, None), (2, None), (2, Some(0)), (4, Some(1))] {
            assert_eq!(saver(world, Some(AbortKind::NotFinite), culprit), None, "{world} {culprit:?}");
        }
    }
}
