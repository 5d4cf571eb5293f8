//! The folder of one run: locked, cleaned and tried before the first step, and written by that run alone.

use super::admission::{self, Admission, Found, Refusal, listed};
use super::estate::{Estate, Superseded};
use super::lock::{FolderLock, Holder};
use super::store::{self, Progress};
use super::{CheckpointError, RunIdentity, Snapshot, leftovers, trial};
use std::fs;
use std::path::{Path, PathBuf};

/// Says whose folder it is, from the start of the run.
pub(super) const RUN: &str = "run.json";

/// An output folder this process holds. Dropping it lets it go.
#[derive(Debug)]
pub struct RunFolder {
    pub(super) root: PathBuf,
    /// None: a writer that was given up still holds it.
    pub(super) lock: Option<FolderLock>,
    pub(super) host: String,
}

/// A folder with a run that may write into it.
#[derive(Debug)]
pub struct OwnedFolder {
    pub(super) folder: RunFolder,
    pub(super) run: RunIdentity,
    /// What is to become of what is there.
    pub(super) estate: Estate,
    /// What became of damaged checkpoints beyond its start, for people.
    pub(super) set_aside: Vec<String>,
}

/// The last part of a path.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Why a run may not write below `root`, with what to do.
fn refused(root: &Path, refusal: Refusal) -> CheckpointError {
    match refusal {
        Refusal::Occupied { run, names } => {
            let whose = run.as_ref().map_or_else(|| "another run".into(), ToString::to_string);
            let why = format!("it holds checkpoints of {whose}: {}", listed(&names));
            CheckpointError::Occupied { path: root.into(), why }
        }
        Refusal::Behind { start, names } => {
            CheckpointError::Behind { path: root.into(), start, names: listed(&names) }
        }
    }
}

impl RunFolder {
    /// Makes the folder, locks it, removes what killed runs left half-written, and tries whether two checkpoints of
    /// `bytes` each can be written there. Whatever is wrong is said now. `interrupted` ends the wait for the lock.
    pub fn take(
        root: &Path,
        host: &str,
        bytes: u64,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Self, CheckpointError> {
        if root.join(store::MANIFEST).exists() {
            let why = "it is itself a checkpoint, of a run in the folder above it".into();
            return Err(CheckpointError::Occupied { path: root.into(), why });
        }
        fs::create_dir_all(root).map_err(CheckpointError::unwritable("make the folder", root))?;
        let lock = FolderLock::take(root, &Holder::here(host), interrupted)?;
        let cleaned = leftovers::clean(root)?;
        if !cleaned.is_empty() {
            tracing::info!(
                "removed what a killed run left half-written in {}: {}",
                root.display(),
                cleaned.join(", ")
            );
        }
        trial::try_out(root, bytes)?;
        Ok(Self { root: root.into(), lock: Some(lock), host: host.into() })
    }

    /// Complete checkpoints, in order of progress; those beyond `start` with what is the matter with them.
    fn found(&self, start: Option<&str>) -> Result<Vec<Found>, CheckpointError> {
        let mut all = store::list(&self.root)?;
        all.sort();
        let start = start.and_then(store::parse_name);
        let found = |(progress, path): (Progress, PathBuf)| Found {
            name: name_of(&path),
            progress,
            run: store::load_manifest(&path).ok().and_then(|m| m.run),
            damage: start.filter(|start| progress > *start).and_then(|_| store::damage(&path)),
        };
        Ok(all.into_iter().map(found).collect())
    }

    /// Renames a damaged checkpoint, so that nobody takes it for one; returns its new name.
    fn set_aside(&self, name: &str) -> Result<String, CheckpointError> {
        let new = free_name(&self.root.join(name));
        super::atomic::rename(&self.root, name, &new)?;
        Ok(new)
    }

    /// The name of a checkpoint of this very folder; none for one that lies elsewhere.
    fn own_name(&self, checkpoint: &Path) -> Option<String> {
        let (path, root) = (checkpoint.canonicalize().ok()?, self.root.canonicalize().ok()?);
        (path.parent()? == root).then(|| path.file_name().map(|n| n.to_string_lossy().into_owned()))?
    }

    /// Admits a run that goes on from checkpoint `start` (of this folder or another), or starts anew. Checkpoints of
    /// others are refused, or, with `overwrite`, removed once the first new one is complete.
    pub fn admit(self, start: Option<&Path>, overwrite: bool) -> Result<OwnedFolder, CheckpointError> {
        let own = start.and_then(|path| self.own_name(path));
        let refused = |r| refused(&self.root, r);
        let found = self.found(own.as_deref())?;
        let admission = admission::decide(&found, own.as_deref(), overwrite).map_err(refused)?;
        let named = |names: Vec<String>| names.into_iter().map(|n| Superseded::of(&self.root, n)).collect();
        let (run, adopts_unnamed, superseded, damaged) = match admission {
            Admission::New { superseded } => (None, false, named(superseded), vec![]),
            Admission::Continue { run, superseded, damaged } => {
                let unnamed = run.is_none();
                (run, unnamed, named(superseded), damaged)
            }
        };
        let told =
            |(name, why): (String, String)| Ok(format!("{name} as {} ({why})", self.set_aside(&name)?));
        let set_aside = damaged.into_iter().map(told).collect::<Result<_, CheckpointError>>()?;
        let run = run.unwrap_or_else(|| RunIdentity::new(&self.host));
        let path = self.root.join(RUN);
        let text = serde_json::to_vec_pretty(&run).map_err(|e| CheckpointError::damaged(&path, e))?;
        super::write_atomic(&path, &text)?;
        let estate = Estate { superseded, best_only: Vec::new(), adopts_unnamed };
        Ok(OwnedFolder { folder: self, run, estate, set_aside })
    }
}

impl OwnedFolder {
    /// The run that writes here.
    pub fn run(&self) -> &RunIdentity {
        &self.run
    }

    /// Names of others' checkpoints that go once the first one of this run is complete.
    pub fn superseded(&self) -> Vec<String> {
        self.estate.superseded.iter().map(|s| s.name.clone()).collect()
    }

    /// What whoever writes here after this process has to know.
    pub fn estate(&self) -> &Estate {
        &self.estate
    }

    /// Damaged checkpoints that were renamed, as `3 as 3.damaged (what is the matter)`.
    pub fn set_aside(&self) -> &[String] {
        &self.set_aside
    }

    fn owns(&self, path: &Path) -> bool {
        match store::load_manifest(path).map(|m| m.run) {
            Ok(Some(run)) => run.id == self.run.id,
            Ok(None) => self.estate.adopts_unnamed,
            Err(_) => false,
        }
    }

    /// The highest top-1 that checkpoints of this run were evaluated with; none where none was.
    ///
    /// # Errors
    /// When the folder cannot be listed, or a manifest of it cannot be read.
    pub fn best(&self) -> Result<Option<f64>, CheckpointError> {
        let mut best: Option<f64> = None;
        for (_, path) in store::list(&self.folder.root)? {
            if self.owns(&path) && !self.estate.supersedes(&path) {
                best =
                    [best, store::top1(&store::load_manifest(&path)?)].into_iter().flatten().reduce(f64::max);
            }
        }
        Ok(best)
    }

    /// Saves like [`OwnedFolder::save`] the best checkpoint so far. Of this run's best ones since it began or went on, those
    /// that were not `due` for any other reason go once a better one is complete.
    pub fn save_best(
        &mut self,
        snapshot: &Snapshot,
        due: bool,
        still: &dyn Fn() -> bool,
    ) -> Result<PathBuf, CheckpointError> {
        let target = self.save(snapshot, still)?;
        let name = name_of(&target);
        let former = self.estate.best_only.iter().filter(|former| **former != name);
        let former: Vec<PathBuf> =
            former.map(|n| self.folder.root.join(n)).filter(|p| self.owns(p)).collect();
        if former.is_empty() || still() {
            former.iter().try_for_each(|path| remove(path))?;
            self.estate.best_only.clear();
        }
        self.estate.best(&name, due);
        Ok(target)
    }

    /// Saves atomically and returns the checkpoint's folder. Once it is in place, this run's earlier checkpoints within
    /// an epoch are removed, and those the run was told to overwrite; never one that is further. On error nothing that was
    /// there is lost. `still` is asked before the checkpoint appears, and before anything is removed: whether this process is
    /// the run's writer, which it may cease to be while it stands still.
    ///
    /// # Errors
    /// When it cannot be written, or when this process is the writer no more.
    pub fn save(
        &mut self,
        snapshot: &Snapshot,
        still: &dyn Fn() -> bool,
    ) -> Result<PathBuf, CheckpointError> {
        self.folder.lock_again();
        let mut snapshot = snapshot.clone();
        snapshot.manifest.run = Some(self.run.clone());
        let target = store::save_while(&self.folder.root, &snapshot, still)?;
        let name = name_of(&target);
        // It has taken the place of one that was to be overwritten, whatever becomes of the others now.
        self.estate.superseded.retain(|s| s.name != name);
        let progress = store::parse_name(&name);
        let within_epoch = store::list(&self.folder.root)?
            .into_iter()
            .filter(|(p, path)| p.1 > 0 && Some(*p) < progress && self.owns(path))
            .map(|(_, path)| path);
        let superseded = self.estate.superseded.iter().map(|s| self.folder.root.join(&s.name));
        let gone: Vec<PathBuf> = within_epoch.chain(superseded).collect();
        if gone.is_empty() || still() {
            gone.iter().filter(|p| p.exists()).try_for_each(|path| remove(path))?;
            self.estate.superseded.clear();
        }
        Ok(target)
    }
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    fs::remove_dir_all(path).map_err(CheckpointError::io("remove the superseded", path))
}

/// The name under which a damaged checkpoint is kept beside the others, which nothing has yet.
pub fn free_name(damaged: &Path) -> String {
    let name = name_of(damaged);
    let numbered = |n: usize| match n {
        1 => format!("{name}.damaged"),
        n => format!("{name}.damaged-{n}"),
    };
    let free = (1..).map(numbered).find(|new| !damaged.with_file_name(new).exists());
    free.unwrap_or_else(|| unreachable!("there are more numbers than names"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::snapshot;
    use super::super::{Which, find, load_manifest};
    use super::*;

    const ALWAYS: fn() -> bool = || true;

    fn take(root: &Path) -> RunFolder {
        RunFolder::take(root, "here", 1 << 10, &|| false).unwrap()
    }

    fn names(root: &Path) -> Vec<String> {
        let mut all: Vec<String> = store::list(root)
            .unwrap()
            .iter()
            .map(|(_, p)| p.file_name().unwrap().to_str().unwrap().into())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_second_run_neither_removes_nor_joins_the_firsts_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = take(dir.path()).admit(None, false).unwrap();
        first.save(&snapshot(0, 30), &ALWAYS).unwrap();
        drop(first);
        let e = take(dir.path()).admit(None, false).unwrap_err().to_string();
        for want in ["0-30", "Go on", "overwrite", "another folder"] {
            assert!(e.contains(want), "{want} in {e}");
        }
        // Overwriting keeps the old one until the first new one is complete.
        let mut second = take(dir.path()).admit(None, true).unwrap();
        assert_eq!(names(dir.path()), ["0-30"]);
        second.save(&snapshot(0, 12), &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["0-12"]);
    }

    #[test]
    fn a_run_does_not_overwrite_its_own_checkpoint_where_the_word_to_remove_others_came_late() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = take(dir.path()).admit(None, false).unwrap();
        first.save(&snapshot(1, 0), &ALWAYS).unwrap();
        first.save(&snapshot(3, 0), &ALWAYS).unwrap();
        drop(first);
        let mut second = take(dir.path()).admit(None, true).unwrap();
        // It may write, and when it has, nobody says that it may remove.
        let asked = std::cell::Cell::new(0);
        let once = || asked.replace(asked.get() + 1) == 0;
        second.save(&snapshot(1, 0), &once).unwrap();
        assert_eq!((asked.get(), names(dir.path())), (2, vec!["1".into(), "3".into()]));
        second.save(&snapshot(2, 0), &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["1", "2"]);
        assert!(second.owns(&dir.path().join("1")));
    }

    #[test]
    fn damaged_checkpoints_beyond_the_start_are_renamed_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = take(dir.path()).admit(None, false).unwrap();
        let at = first.save(&snapshot(1, 0), &ALWAYS).unwrap();
        for _ in 0..2 {
            let damaged = first.save(&snapshot(2, 0), &ALWAYS).unwrap().join("model.safetensors");
            let model = fs::read(&damaged).unwrap();
            fs::write(&damaged, &model[..model.len() / 2]).unwrap();
            drop(first);
            first = take(dir.path()).admit(Some(&at), false).unwrap();
            assert!(first.set_aside()[0].contains("bytes"), "{:?}", first.set_aside());
        }
        assert_eq!(names(dir.path()), ["1"]);
        for aside in ["2.damaged", "2.damaged-2"] {
            assert!(dir.path().join(aside).join("model.safetensors").exists(), "{aside}");
        }
        assert_eq!(find(dir.path(), Which::Auto).unwrap(), at);
        // A whole one is not set aside.
        first.save(&snapshot(2, 0), &ALWAYS).unwrap();
        drop(first);
        let e = take(dir.path()).admit(Some(&at), false).unwrap_err().to_string();
        assert!(e.contains("starts from 1") && e.contains("overwrite those beyond 1"), "{e}");
    }

    #[test]
    fn the_best_is_kept_beside_those_that_are_due_until_a_better_one_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = take(dir.path()).admit(None, false).unwrap();
        let of = |epoch, top1: f64| {
            let mut one = snapshot(epoch, 0);
            one.manifest.metrics = [("val.top1".to_string(), top1)].into();
            one
        };
        assert_eq!(run.best().unwrap(), None);
        run.save_best(&of(1, 10.0), false, &ALWAYS).unwrap();
        run.save_best(&of(2, 20.0), true, &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["2"], "1 was kept for being the best only");
        run.save_best(&of(3, 30.0), false, &ALWAYS).unwrap();
        let at = run.save(&of(4, 25.0), &ALWAYS).unwrap();
        assert_eq!(
            (names(dir.path()), run.best().unwrap()),
            (vec!["2".into(), "3".into(), "4".into()], Some(30.0))
        );
        drop(run);
        // Who goes on knows the best, and does not remove what another process has left.
        let mut again = take(dir.path()).admit(Some(&at), false).unwrap();
        assert_eq!(again.best().unwrap(), Some(30.0));
        again.save_best(&of(5, 40.0), false, &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["2", "3", "4", "5"]);
        drop(again);
        let anew = take(dir.path()).admit(None, true).unwrap();
        assert_eq!(anew.best().unwrap(), None, "those of another run are not its own");
    }

    #[test]
    fn a_former_writer_neither_removes_what_is_further_nor_appears_once_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = take(dir.path()).admit(None, false).unwrap();
        let run = first.run().clone();
        first.save(&snapshot(0, 3), &ALWAYS).unwrap();
        // It stands still in a save, is given up, and the others go on.
        super::super::save_for(dir.path(), Some(&run), &snapshot(0, 9)).unwrap();
        let e = first.save(&snapshot(0, 5), &|| false).unwrap_err();
        assert!(matches!(e, CheckpointError::GivenUp { .. }), "{e}");
        assert_eq!(names(dir.path()), ["0-3", "0-9"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "nothing half-written is left");
        // Given up between its last question and the removal.
        let asked = std::cell::Cell::new(0);
        let once = || asked.replace(asked.get() + 1) == 0;
        first.save(&snapshot(0, 6), &once).unwrap();
        assert_eq!(names(dir.path()), ["0-3", "0-6", "0-9"]);
        // Whatever it is told, what is further stays.
        first.save(&snapshot(0, 7), &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["0-7", "0-9"]);
    }

    #[test]
    fn a_checkpoint_is_no_output_folder() {
        let dir = tempfile::tempdir().unwrap();
        let at = take(dir.path()).admit(None, false).unwrap().save(&snapshot(1, 0), &ALWAYS).unwrap();
        let e = RunFolder::take(&at, "here", 1 << 10, &|| false).unwrap_err();
        assert!(e.is_configuration() && e.to_string().contains("itself a checkpoint"), "{e}");
        assert!(!at.join(RUN).exists());
    }

    #[test]
    fn who_goes_on_keeps_the_identity_and_removes_only_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = take(dir.path()).admit(None, false).unwrap();
        let run = first.run().clone();
        let at = first.save(&snapshot(1, 3), &ALWAYS).unwrap();
        drop(first);
        // Somebody copied a checkpoint of another run into it.
        let mut foreign = snapshot(0, 7);
        foreign.manifest.run = Some(RunIdentity::new("elsewhere"));
        store::save(dir.path(), &foreign).unwrap();
        let mut again = take(dir.path()).admit(Some(&at), false).unwrap();
        assert_eq!(again.run(), &run);
        let saved = again.save(&snapshot(1, 4), &ALWAYS).unwrap();
        assert_eq!(load_manifest(&saved).unwrap().run, Some(run));
        assert_eq!(names(dir.path()), ["0-7", "1-4"]);
    }

    #[test]
    fn checkpoints_of_before_there_were_identities_belong_to_who_goes_on_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let old = store::save(dir.path(), &snapshot(0, 5)).unwrap();
        let mut run = take(dir.path()).admit(Some(&old), false).unwrap();
        run.save(&snapshot(0, 6), &ALWAYS).unwrap();
        assert_eq!(names(dir.path()), ["0-6"]);
    }

    #[test]
    fn a_checkpoint_of_another_folder_begins_a_run_of_its_own() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut first = take(there.path()).admit(None, false).unwrap();
        let at = first.save(&snapshot(2, 0), &ALWAYS).unwrap();
        let second = take(here.path()).admit(Some(&at), false).unwrap();
        assert_ne!(first.run().id, second.run().id);
        assert_eq!(find(there.path(), Which::Auto).unwrap(), at);
        let text = fs::read_to_string(here.path().join(RUN)).unwrap();
        assert!(text.contains(&second.run().id), "{text}");
    }
}
