//! How a run begins: rank 0 decides from which checkpoint, takes the output folder, and tells all others, before anything
//! is allocated.
//!
//! All ranks then load the same checkpoint of the same run, or say why they cannot, whether the hosts share a file system
//! or not. Nothing before that depends on what is in the folder but the plan's global batch, which is that of the checkpoint
//! rank 0 saw when it registered: where the folder has changed since so that the plan does not fit it any more, the job is
//! started again.

use super::TrainError;
use super::job::Job;
use super::source::{source, starts_over};
use crate::checkpoint::{self, CheckpointError, Estate, OwnedFolder, RunFolder, RunIdentity};
use crate::collective::{Operation, StoreError};
use crate::config::{RunConfig, RunScope, RunSettings};
use crate::launcher::signals;
use crate::session::machine::host_name;
use crate::session::{BuildPlan, Session};
use octrain_coordinator::strategy::Crew;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where rank 0 tells the others.
const KEY: &str = "octrain/begin";
/// Where another rank says that it was asked to stop while it waited for that.
const STOP: &str = "octrain/begin-stop";
/// How often a rank that waits asks whether it is to stop.
const LISTEN: Duration = Duration::from_secs(1);
/// Longest wait for it: rank 0 may have to wait for a lost host's lock.
const DECIDED: Duration = Duration::from_secs(300);
/// Bytes of a checkpoint besides its tensors and its graph.
const MANIFEST_ROOM: u64 = 64 << 10;

/// The checkpoint a run goes on from, by the rank that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chosen {
    path: PathBuf,
    manifest_sha256: String,
}

/// What the rank that decides tells all others.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    source: Option<Chosen>,
    run: Option<RunIdentity>,
    /// The best top-1 so far, as the bits of its number: ranks must not differ by a rounding of the text.
    best: Option<u64>,
    /// What becomes of the checkpoints that are there, whoever writes.
    estate: Estate,
    /// It was asked to stop before there was anything to decide: all stop.
    stop: bool,
}

/// How a run begins.
#[derive(Debug, Default)]
pub(super) struct Begin {
    /// The checkpoint it goes on from.
    pub source: Option<PathBuf>,
    /// The folder it writes into; only on the rank that writes, and where something is written.
    pub folder: Option<OwnedFolder>,
    /// Whose checkpoints are written, on every rank; none where nothing is written.
    pub run: Option<RunIdentity>,
    /// What becomes of the checkpoints that are there, on every rank: any may have to write in the place of the first.
    pub estate: Estate,
    /// The highest top-1 that its checkpoints in the folder were evaluated with, on every rank.
    pub best: Option<f64>,
}

/// Images of an optimizer step of the run that `config` would go on with, as the folders are now; 0 where it would start
/// anew, was told a global batch, or has none. What is wrong with the folders is left to the rank that decides.
pub fn kept_global_batch(config: &RunConfig, job: &Job) -> u64 {
    kept(config, training_images(job))
}

/// Images of the training set; 0 without one.
fn training_images(job: &Job) -> usize {
    job.train.as_ref().map_or(0, |d| d.len())
}

fn kept(config: &RunConfig, images: usize) -> u64 {
    if config.data.global_batch_size.is_some() || config.run.run_scope == RunScope::EvalOnly {
        return 0;
    }
    let manifest =
        source(config, images).ok().flatten().and_then(|path| checkpoint::load_manifest(&path).ok());
    manifest.map_or(0, |m| m.global_batch as u64)
}

/// The global batch that the plan must have to go on from a checkpoint of `kept` images a step, or, without one, to start
/// anew on `world` workers; an error where it has another, because the folder has changed since the plan was made.
fn fits_plan(config: &RunConfig, plan: &BuildPlan, kept: Option<u64>) -> Result<(), TrainError> {
    if config.data.global_batch_size.is_some() || config.run.run_scope == RunScope::EvalOnly {
        return Ok(());
    }
    let planned = plan.microbatches * plan.microbatch_size;
    // Who does not count in epochs has no global batch to be kept.
    let kept = kept.filter(|images| *images > 0);
    let crew = Crew { world: u64::from(plan.world_size), min_world: u64::from(plan.min_world) };
    let now = kept.unwrap_or(plan.microbatch_size * crew.microbatches());
    if planned == now {
        return Ok(());
    }
    let what = if kept.is_some() { "another checkpoint is there" } else { "the checkpoint is gone" };
    Err(TrainError::FolderChanged { what, planned, now })
}

/// Whether such a run writes checkpoints.
fn writes(run: &RunSettings) -> bool {
    run.run_scope != RunScope::EvalOnly && !run.benchmark
}

/// A signal came while rank 0 waited for the folder.
const STOPPED: TrainError = TrainError::Stopped("the wait for its folder");

/// Tells the other ranks, if there are any.
fn tell(session: &Session, told: &Told) -> Result<(), TrainError> {
    if session.generation().world_size() > 1 {
        let text = serde_json::to_vec(told).map_err(|e| TrainError::Config(e.to_string()))?;
        session.store().set(KEY, &text)?;
        // Nobody is waited for here.
        drop(session.meets(&session.generation(), Operation::Agree));
    }
    Ok(())
}

/// Decides on rank 0 and tells the others. A checkpoint has `copies` numbers for every weight: itself, and what the update
/// rule keeps.
pub(super) fn agree(
    config: &RunConfig,
    session: &Session,
    job: &Job,
    copies: usize,
) -> Result<Begin, TrainError> {
    let (plan, generation) = (session.plan(), session.generation());
    let several = generation.world_size() > 1;
    if generation.rank() == 0 {
        // The folder first: what others do in it ends before it is looked at.
        let folder = if writes(&config.run) {
            // In FP32, and statistics besides.
            let scalars: usize = job.graph.params.iter().map(crate::graph::Param::len).sum();
            let graph = serde_json::to_vec(&job.graph).map_err(|e| TrainError::Config(e.to_string()))?.len();
            let bytes = (copies * 4 * scalars) as u64 + graph as u64 + MANIFEST_ROOM;
            // A store that does not answer is one that ends the job.
            let others = || several && session.store().check(&[STOP.into()]).unwrap_or(false);
            // Once heard is heard, whether the store answers again or not.
            let heard = std::cell::Cell::new(false);
            let asked_to_end = || {
                heard.set(heard.get() || signals::requested() || generation.abort().is_tripped() || others());
                heard.get()
            };
            match RunFolder::take(&config.run.output_dir, &host_name(), bytes, &asked_to_end) {
                // Not the folder's fault, nor a reason not to try again.
                Err(CheckpointError::InUse { .. }) if asked_to_end() => {
                    return Err(match (session.abort_reason(), session.regrouping()) {
                        (Some(why), _) => TrainError::Aborted(why),
                        (None, Some(why)) => TrainError::Regrouped(why),
                        (None, None) => {
                            let estate = Estate::default();
                            tell(session, &Told { source: None, run: None, best: None, estate, stop: true })?;
                            STOPPED
                        }
                    });
                }
                taken => Some(taken?),
            }
        } else {
            None
        };
        let source = source(config, training_images(job))?;
        let kept = source.as_deref().map(checkpoint::load_manifest).transpose()?;
        fits_plan(config, plan, kept.map(|m| m.global_batch as u64))?;
        // From the first epoch on: a run of its own, whatever weights it starts with.
        let goes_on = source.as_deref().filter(|_| !starts_over(config));
        let folder = folder.map(|f| f.admit(goes_on, config.checkpoints.overwrite)).transpose()?;
        let run = folder.as_ref().map(|f| f.run().clone());
        let best = folder.as_ref().map(checkpoint::OwnedFolder::best).transpose()?.flatten();
        let chosen = source.as_ref().map(|path| {
            Ok::<_, CheckpointError>(Chosen {
                path: path.clone(),
                manifest_sha256: checkpoint::manifest_hash(path)?,
            })
        });
        let estate = folder.as_ref().map(|f| f.estate().clone()).unwrap_or_default();
        let told = Told {
            source: chosen.transpose()?,
            run: run.clone(),
            best: best.map(f64::to_bits),
            estate: estate.clone(),
            stop: false,
        };
        tell(session, &told)?;
        return Ok(Begin { source, folder, run, estate, best });
    }
    let waiting = session.meets(&generation, Operation::Agree);
    let text = decision(session)?;
    drop(waiting);
    let told: Told = serde_json::from_slice(&text)
        .map_err(|e| TrainError::Config(format!("rank 0's decision on the start cannot be read: {e}")))?;
    if told.stop {
        return Err(STOPPED);
    }
    let best = told.best.map(f64::from_bits);
    let source = told.source.map(seen_here).transpose()?;
    Ok(Begin { source, folder: None, run: told.run, estate: told.estate, best })
}

/// Waits for rank 0's decision. Who is asked to stop meanwhile says so: rank 0 may have to wait for its folder, and all
/// stop then; where it has decided, the ranks agree on where to stop as they do later.
fn decision(session: &Session) -> Result<Vec<u8>, StoreError> {
    let start = Instant::now();
    let mut said = false;
    loop {
        match session.store().get(KEY, LISTEN, session.generation().abort()) {
            Err(StoreError::Timeout { .. }) if start.elapsed() < DECIDED => {}
            Err(StoreError::Timeout { key, .. }) => return Err(StoreError::Timeout { key, waited: DECIDED }),
            answer => return answer,
        }
        if !said && signals::requested() {
            session.store().set(STOP, b"1")?;
            said = true;
        }
    }
}

/// Whether an error of the system says that there is nothing of this name.
fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// The checkpoint rank 0 has chosen, if this host sees the same one.
fn seen_here(chosen: Chosen) -> Result<PathBuf, CheckpointError> {
    let Chosen { path, manifest_sha256 } = chosen;
    match checkpoint::manifest_hash(&path) {
        Ok(hash) if hash == manifest_sha256 => Ok(path),
        Ok(_) => Err(CheckpointError::NotShared { path, what: "has in another state" }),
        Err(CheckpointError::Io { source, .. }) if is_absence(source.kind()) => {
            Err(CheckpointError::NotShared { path, what: "does not see" })
        }
        // It may be there, and the next start may read it.
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_has_changed_since_the_plan_was_made_is_said_where_it_matters() {
        let config = RunConfig::default();
        let plan = BuildPlan {
            world_size: 2,
            min_world: 2,
            microbatches: 4,
            microbatch_size: 16,
            ..BuildPlan::default()
        };
        fits_plan(&config, &plan, Some(64)).unwrap();
        let told = |kept| fits_plan(&config, &plan, kept).unwrap_err().to_string();
        assert!(
            told(None).contains("the checkpoint is gone") && told(None).contains("not 32"),
            "{}",
            told(None)
        );
        assert!(told(Some(128)).contains("another checkpoint is there"), "{}", told(Some(128)));
        let new = BuildPlan { microbatches: 2, ..plan.clone() };
        fits_plan(&config, &new, None).unwrap();
        // What was told is obeyed, whatever the checkpoint had.
        let told = config.with(|c| c.data.global_batch_size = Some(64));
        fits_plan(&told, &plan, Some(128)).unwrap();
        assert_eq!(kept(&told, 9), 0);
    }

    #[test]
    fn a_host_that_does_not_see_the_checkpoint_says_so() {
        let (dir, file) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let chosen = |sha: &str| Chosen { path: dir.path().into(), manifest_sha256: sha.into() };
        let told = |c| seen_here(c).unwrap_err().to_string();
        assert!(told(chosen("0")).contains("does not see"));
        std::fs::write(dir.path().join("manifest.json"), "{}").unwrap();
        assert!(told(chosen("0")).contains("another state"));
        let hash = checkpoint::manifest_hash(dir.path()).unwrap();
        assert_eq!(seen_here(chosen(&hash)).unwrap(), dir.path());
        // What cannot be read may be there all the same.
        std::fs::remove_file(dir.path().join("manifest.json")).unwrap();
        std::fs::create_dir(dir.path().join("manifest.json")).unwrap();
        let e = seen_here(chosen(&hash)).unwrap_err();
        assert!(!e.is_configuration() && e.to_string().contains("cannot read"), "{e}");
        let beneath = Chosen { path: file.path().join("1"), manifest_sha256: hash };
        assert!(seen_here(beneath).unwrap_err().to_string().contains("does not see"));
    }
}
