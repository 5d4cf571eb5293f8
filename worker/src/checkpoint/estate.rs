//! A folder whose writer is gone, or was given up: what whoever writes there after it has to know, and how it writes.

use super::folder::{OwnedFolder, RUN, RunFolder};
use super::lock::{FolderLock, Holder};
use super::store::{self, Progress};
use super::{CheckpointError, RunIdentity, Snapshot, leftovers};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// What is to become of the checkpoints of a folder, whoever writes there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estate {
    /// Removed once the first checkpoint is complete.
    pub(super) superseded: Vec<Superseded>,
    /// Checkpoints that were due for nothing but being the best so far; they go once a better one is complete.
    pub(super) best_only: Vec<String>,
    /// The run goes on with one whose checkpoints do not say whose they are: those are its own.
    pub(super) adopts_unnamed: bool,
}

/// A checkpoint that is to be removed, by its content: a new one may take its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Superseded {
    pub name: String,
    /// Hash of its manifest; empty where that cannot be read.
    pub manifest_sha256: String,
}

impl Superseded {
    pub fn of(root: &Path, name: String) -> Self {
        let manifest_sha256 = store::manifest_hash(&root.join(&name)).unwrap_or_default();
        Self { name, manifest_sha256 }
    }

    /// Whether it is still the one that it was.
    fn is_there(&self, root: &Path) -> bool {
        store::manifest_hash(&root.join(&self.name)).is_ok_and(|now| now == self.manifest_sha256)
    }
}

impl Estate {
    /// A checkpoint is saved, or is about to be, as the best so far: `due` for another reason, or not.
    pub fn best(&mut self, name: &str, due: bool) {
        if !due && !self.best_only.iter().any(|n| n == name) {
            self.best_only.push(name.into());
        }
    }

    pub(super) fn supersedes(&self, path: &Path) -> bool {
        path.file_name().is_some_and(|name| self.superseded.iter().any(|s| name == s.name.as_str()))
    }
}

impl RunFolder {
    /// Takes the lock, if it was not to be had and is now.
    pub(super) fn lock_again(&mut self) {
        if self.lock.is_none() {
            self.lock = FolderLock::take(&self.root, &Holder::here(&self.host), &|| true).ok();
        }
    }
}

impl OwnedFolder {
    /// Goes on writing for a run of which another process has taken the folder before, and is gone or was given up. Its lock
    /// is not waited for: who may write is not told by it in a job that outlives its workers.
    ///
    /// # Errors
    /// When the folder is another run's by now.
    pub fn inherit(
        root: &Path,
        host: &str,
        run: RunIdentity,
        estate: Estate,
    ) -> Result<Self, CheckpointError> {
        whose(root, &run)?;
        let lock = match FolderLock::take(root, &Holder::here(host), &|| true) {
            Ok(lock) => {
                // What it was writing is half-written for good; one that still stands there may yet finish it.
                leftovers::clean(root)?;
                Some(lock)
            }
            Err(e @ CheckpointError::InUse { .. }) => {
                tracing::warn!(
                    "{e}; its holder was given up, and this rank writes there without the lock until that ends"
                );
                None
            }
            Err(e) => return Err(e),
        };
        let superseded = estate.superseded.into_iter().filter(|s| s.is_there(root)).collect();
        let estate = Estate { superseded, ..estate };
        let folder = RunFolder { root: root.into(), lock, host: host.into() };
        Ok(Self { folder, run, estate, set_aside: Vec::new() })
    }
}

/// Whether a run's folder holds a checkpoint of it that is at `progress` (epochs, steps of the next one) or further, and not
/// to be overwritten: then somebody has gone on with the run from there.
pub fn has_gone_on(root: &Path, run: &RunIdentity, estate: &Estate, progress: Progress) -> bool {
    let its = |path: &Path| store::load_manifest(path).is_ok_and(|m| m.run.is_some_and(|r| r.id == run.id));
    let old = |path: &Path| {
        let named = |s: &&Superseded| path.file_name().is_some_and(|name| name == s.name.as_str());
        estate.superseded.iter().find(named).is_some_and(|s| s.is_there(root))
    };
    store::list(root).is_ok_and(|all| all.iter().any(|(p, path)| *p >= progress && its(path) && !old(path)))
}

/// Saves for `run`, whose writer has been given up: dead, or stopped and still holding the folder, so without its lock. A
/// checkpoint appears whole and under a name of its own, and nothing is removed.
///
/// # Errors
/// When the folder is another run's by now, or `run` is none: a run that writes nothing.
pub fn save_for(
    root: &Path,
    run: Option<&RunIdentity>,
    snapshot: &Snapshot,
) -> Result<PathBuf, CheckpointError> {
    let Some(run) = run else {
        return Err(CheckpointError::Occupied { path: root.into(), why: "no run writes there".into() });
    };
    whose(root, run)?;
    let mut snapshot = snapshot.clone();
    snapshot.manifest.run = Some(run.clone());
    store::save(root, &snapshot)
}

/// An error where a folder says that it is another run's.
fn whose(root: &Path, run: &RunIdentity) -> Result<(), CheckpointError> {
    let path = root.join(RUN);
    let there: RunIdentity = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|e| CheckpointError::damaged(&path, e))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(CheckpointError::io("read", &path)(e)),
    };
    if there.id == run.id {
        return Ok(());
    }
    Err(CheckpointError::Occupied { path: root.into(), why: format!("it is that of {there}") })
}

#[cfg(test)]
mod tests {
    use super::super::load_manifest;
    use super::super::testing::snapshot;
    use super::*;

    const ALWAYS: fn() -> bool = || true;

    fn take(root: &Path) -> RunFolder {
        RunFolder::take(root, "here", 1 << 10, &|| false).unwrap()
    }

    fn inherit(root: &Path, former: &OwnedFolder, estate: Estate) -> OwnedFolder {
        OwnedFolder::inherit(root, "here", former.run().clone(), estate).unwrap()
    }

    fn names(root: &Path) -> Vec<String> {
        let name = |(_, p): &(Progress, PathBuf)| p.file_name().unwrap().to_str().unwrap().to_string();
        let mut all: Vec<String> = store::list(root).unwrap().iter().map(name).collect();
        all.sort();
        all
    }

    fn best(epoch: u32, top1: f64) -> Snapshot {
        let mut one = snapshot(epoch, 0);
        one.manifest.metrics = [("val.top1".to_string(), top1)].into();
        one
    }

    #[test]
    fn where_the_former_writer_holds_the_lock_nothing_piles_up_and_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        // On another host: such a lock is waited for for two minutes by whoever starts a run.
        let former =
            RunFolder::take(dir.path(), "elsewhere", 1 << 10, &|| false).unwrap().admit(None, false).unwrap();
        let begun = std::time::Instant::now();
        let mut heir = inherit(dir.path(), &former, Estate::default());
        for step in [3, 5, 7] {
            heir.save(&snapshot(0, step), &ALWAYS).unwrap();
            assert_eq!(names(dir.path()), [format!("0-{step}")]);
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
        // Once it is gone, the folder is the heir's, and no other run's.
        drop(former);
        heir.save(&snapshot(0, 9), &ALWAYS).unwrap();
        assert!(matches!(
            RunFolder::take(dir.path(), "here", 1 << 10, &|| true),
            Err(CheckpointError::InUse { .. })
        ));
    }

    #[test]
    fn what_was_to_be_overwritten_is_overwritten_by_the_heir_and_nothing_that_took_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = take(dir.path()).admit(None, false).unwrap();
        for (epoch, step) in [(1, 0), (2, 0), (0, 30)] {
            other.save(&snapshot(epoch, step), &ALWAYS).unwrap();
        }
        drop(other);
        assert_eq!(names(dir.path()), ["0-30", "1", "2"]);
        let first = take(dir.path()).admit(None, true).unwrap();
        let estate = first.estate().clone();
        let first = RunIdentity::clone(first.run());
        // It has saved its own 1 and is gone before it has removed the others.
        let mut own = snapshot(1, 0);
        own.manifest.metrics = [("val.top1".to_string(), 9.0)].into();
        save_for(dir.path(), Some(&first), &own).unwrap();
        let mut heir = OwnedFolder::inherit(dir.path(), "here", first, estate).unwrap();
        heir.save(&snapshot(1, 4), &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["1", "1-4"]);
    }

    #[test]
    fn a_best_that_was_due_for_nothing_else_goes_with_a_better_one_whoever_saves_that() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = take(dir.path()).admit(None, false).unwrap();
        first.save_best(&best(1, 10.0), false, &ALWAYS).unwrap();
        // All ranks know what it has saved and was about to save when it was lost.
        let mut estate = first.estate().clone();
        estate.best("2", false);
        let run = first.run().clone();
        drop(first);
        let mut heir = OwnedFolder::inherit(dir.path(), "here", run, estate).unwrap();
        heir.save_best(&best(2, 20.0), false, &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["2"]);
        heir.save_best(&best(3, 30.0), true, &ALWAYS).unwrap();
        heir.save_best(&best(4, 40.0), false, &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["3", "4"]);
    }

    #[test]
    fn whether_others_have_gone_on_with_a_run_is_seen_in_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let mut mine = take(dir.path()).admit(None, false).unwrap();
        let (run, none) = (mine.run().clone(), Estate::default());
        assert!(!has_gone_on(dir.path(), &run, &none, (0, 3)));
        mine.save(&snapshot(0, 5), &ALWAYS).unwrap();
        assert_eq!(
            [(0, 3), (0, 5), (0, 6), (1, 0)].map(|p| has_gone_on(dir.path(), &run, &none, p)),
            [true, true, false, false]
        );
        assert!(!has_gone_on(dir.path(), &RunIdentity::new("elsewhere"), &none, (0, 3)));
        // What lies beyond where it was told to start anew is what it overwrites.
        let superseded = vec![Superseded::of(dir.path(), "0-5".into())];
        let estate = Estate { superseded, ..Estate::default() };
        assert!(!has_gone_on(dir.path(), &run, &estate, (0, 3)));
    }

    #[test]
    fn another_rank_saves_as_the_same_run_and_as_no_other_whoever_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = take(dir.path()).admit(None, false).unwrap();
        let run = first.run().clone();
        first.save(&snapshot(0, 3), &ALWAYS).unwrap();
        let saved = save_for(dir.path(), Some(&run), &snapshot(0, 5)).unwrap();
        assert_eq!(load_manifest(&saved).unwrap().run, Some(run));
        assert_eq!(names(dir.path()), ["0-3", "0-5"]);
        let other = RunIdentity::new("elsewhere");
        let e = save_for(dir.path(), Some(&other), &snapshot(0, 6)).unwrap_err().to_string();
        assert!(e.contains("it is that of run"), "{e}");
        assert!(save_for(dir.path(), None, &snapshot(0, 6)).is_err());
    }
}
