//! What a worker does when another process, or its data, has ended the job: it saves what it has. A failed step changes
//! nothing, so every survivor's state is that after a whole number of steps. Where the training itself has failed, by
//! numbers that are not finite, nobody saves: the state after the last whole step is what led there, and could take the
//! place of a good checkpoint.

use super::{Run, TrainError};
use crate::checkpoint::{self, CheckpointError, Snapshot};
use crate::launcher::watchdog::{Phase, doing};
use crate::optim::OptimError;
use crate::session::{AbortKind, FailureKind};
use std::path::PathBuf;

/// The rank that saves: the lowest one that is not the cause of the end, which is mostly gone; where a worker was lost, its
/// host may be gone as a whole, so the lowest one of another host comes first. One that is alone saves whatever it was.
/// None does where the numbers are worthless on all. `hosts` are the ranks' hosts, `end` is the coordinator's verdict,
/// where it came.
fn saver(hosts: &[&str], end: Option<AbortKind>, culprit: Option<u32>) -> Option<u32> {
    // Or the job goes on without this rank, and saves itself.
    if matches!(end, Some(AbortKind::NotFinite | AbortKind::Dropped)) {
        return None;
    }
    if hosts.len() == 1 {
        return Some(0);
    }
    let lost = culprit.filter(|_| end == Some(AbortKind::WorkerLost)).and_then(|c| hosts.get(c as usize));
    let elsewhere = lost.and_then(|lost| hosts.iter().position(|host| host != lost));
    let rank = elsewhere.map(|rank| rank as u32);
    rank.or_else(|| (0..hosts.len() as u32).find(|&rank| Some(rank) != culprit))
}

impl Run<'_> {
    /// Saves if the end of the run is another process's fault or that of the data (a mount that went away), there are
    /// steps that no checkpoint holds, and this rank is the one to save. What cannot be saved is said; the error that
    /// ended the run stays the cause. After any other error of its own a worker's numbers are not to be trusted.
    pub(super) fn rescue(&mut self, end: &TrainError) {
        let kind = end.kind();
        let whole = matches!(kind, FailureKind::Communication | FailureKind::Waited)
            || matches!(end, TrainError::Data(_) | TrainError::Optim(OptimError::NoImages { .. }));
        if !whole || self.progress.position == self.progress.kept {
            return;
        }
        let generation = self.task.session.generation();
        let culprit = self.task.session.blame(&end.to_string(), kind);
        let step = self.progress.position.global_step;
        let hosts: Vec<&str> = generation.roster().iter().map(|p| p.host.as_str()).collect();
        let Some(rank) = saver(&hosts, self.task.session.abort_kind(), culprit) else {
            tracing::info!("step {step} is not saved: what it led to is not finite, or the job goes on");
            return;
        };
        if rank != generation.rank() {
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
        match &mut self.output.folder {
            Some(folder) => folder.save(snapshot),
            None => {
                checkpoint::save_for(&self.task.config.run.output_dir, self.output.run.as_ref(), snapshot)
            }
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
            assert_eq!(saver(&["a"; 4], end, None), Some(0));
            assert_eq!(saver(&["a"; 4], end, Some(2)), Some(0));
            assert_eq!(saver(&["a"; 4], end, Some(0)), Some(1));
            assert_eq!(saver(&["a"], end, Some(0)), Some(0));
            assert_eq!(saver(&["a"; 2], end, Some(1)), Some(0));
        }
        assert_eq!(saver(&["a"; 2], None, None), Some(0));
    }

    #[test]
    fn a_lost_workers_host_is_not_counted_on() {
        let hosts = ["a", "a", "b", "b", "c"];
        for (end, culprit, rank) in [
            (AbortKind::WorkerLost, Some(0), 2),
            (AbortKind::WorkerLost, Some(1), 2),
            (AbortKind::WorkerLost, Some(3), 0),
            (AbortKind::WorkerLost, Some(4), 0),
            (AbortKind::WorkerLost, None, 0),
            // The one that failed said so: its host lives.
            (AbortKind::WorkerFailed, Some(0), 1),
            (AbortKind::WorkerFailed, Some(1), 0),
        ] {
            assert_eq!(saver(&hosts, Some(end), culprit), Some(rank), "{end:?} {culprit:?}");
        }
        assert_eq!(saver(&["b", "a", "b"], Some(AbortKind::WorkerLost), Some(2)), Some(1));
    }

    #[test]
    fn nobody_saves_numbers_that_led_to_nan() {
        for (hosts, culprit) in [
            (&["a"][..], None),
            (&["a", "a"], None),
            (&["a", "b"], Some(0)),
            (&["a", "a", "b", "b"], Some(1)),
        ] {
            assert_eq!(saver(hosts, Some(AbortKind::NotFinite), culprit), None, "{hosts:?} {culprit:?}");
        }
    }
}
