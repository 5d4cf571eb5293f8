//! What a worker does when another process, or its data, has ended the job: it saves what it has. A failed step changes
//! nothing, so every survivor's state is that after a whole number of steps. Where the training itself has failed, by
//! numbers that are not finite, nobody saves: the state after the last whole step is what led there, and could take the
//! place of a good checkpoint.

use super::{Run, TrainError};
use crate::checkpoint::{self, CheckpointError, Position, Snapshot};
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

/// Whether the worker at `me` (host, local index) saves, which is `rank` of the roster it has joined last; or who does, for
/// people. In a job that outlives its workers that roster may be an old one: the coordinator names the one who saves. Where
/// it has named nobody, it was lost itself, or nothing is worth saving.
fn saves(
    named: Option<(String, u32)>,
    me: (&str, u32),
    rank: u32,
    of_roster: impl FnOnce() -> Option<u32>,
) -> Result<(), String> {
    match named {
        Some((host, index)) if (host.as_str(), index) == me => Ok(()),
        Some((host, index)) => {
            Err(format!("the worker at host {host}, local index {index} is the one to save"))
        }
        None => match of_roster() {
            Some(saver) if saver == rank => Ok(()),
            Some(saver) => Err(format!("rank {saver} is the one to save")),
            None => Err("what it led to is not finite, or the job goes on, so nobody saves".into()),
        },
    }
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
        let session = self.task.session;
        let me = generation.mine().map_or(("", 0), |p| (p.host.as_str(), p.local_index));
        let of_roster = || saver(&hosts, session.abort_kind(), culprit);
        if let Err(why) = saves(session.saver(), me, generation.rank(), of_roster) {
            tracing::info!("step {step} is not saved here: {why}");
            return;
        }
        // One that stood still while the others went on, and whom nobody is left to tell of it.
        if session.survives() && self.others_have_gone_on() {
            tracing::info!(
                "step {step} is not saved: others have gone on with the run, and saved what is further"
            );
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

    /// Whether the folder holds what is as far as this rank, or further.
    fn others_have_gone_on(&self) -> bool {
        let Position { epoch, step_in_epoch, .. } = self.progress.position;
        let (root, estate) = (&self.task.config.run.output_dir, &self.output.estate);
        let at = (epoch, step_in_epoch);
        self.output.run.as_ref().is_some_and(|run| checkpoint::has_gone_on(root, run, estate, at))
    }

    /// Writes as the run that all ranks are of.
    fn write(&mut self, snapshot: &Snapshot) -> Result<PathBuf, CheckpointError> {
        match &mut self.output.folder {
            Some(folder) => folder.save(snapshot, &|| true),
            None => {
                checkpoint::save_for(&self.task.config.run.output_dir, self.output.run.as_ref(), snapshot)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{saver, saves};
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
    fn whom_the_coordinator_names_saves_whatever_an_old_roster_says() {
        let named = |host: &str, index| Some((host.to_string(), index));
        let unasked = || -> Option<u32> { panic!("the roster may be an old one") };
        assert!(saves(named("a", 2), ("a", 2), 1, unasked).is_ok());
        for me in [("a", 0), ("b", 2)] {
            let why = saves(named("a", 2), me, 0, unasked).unwrap_err();
            assert!(why.contains("host a, local index 2"), "{why}");
        }
        // A job that ends with any of its workers has the one roster; nor is there another where nobody answers.
        assert!(saves(None, ("a", 0), 0, || Some(0)).is_ok());
        assert!(saves(None, ("a", 1), 1, || Some(0)).unwrap_err().contains("rank 0"));
        assert!(saves(None, ("a", 0), 0, || None).is_err());
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
