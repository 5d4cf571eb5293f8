//! Commands that work on a checkpoint start from the configuration it was trained with.

use super::Exit;
use crate::checkpoint::{self, CheckpointError, Manifest, Origin, Which};
use crate::config::{RunConfig, RunScope};
use crate::metrics::say;
use std::path::{Path, PathBuf};

/// Finds a checkpoint: `which` is `auto`, `best` or a number of epochs.
pub fn find(path: &Path, which: Option<&str>) -> Result<(PathBuf, Manifest), Exit> {
    read(path, self::which(which)?).map_err(Exit::checkpoint)
}

/// What `--last-epoch-of-checkpoint` says.
pub fn which(text: Option<&str>) -> Result<Which, Exit> {
    match text {
        None | Some("none") => Ok(Which::Auto),
        Some(word) => Which::parse(word).ok_or_else(|| {
            Exit::configuration(format!(
                "--last-epoch-of-checkpoint is `{word}`; it is `auto`, `best` or a number of epochs"
            ))
        }),
    }
}

/// Finds a checkpoint and reads what is in its manifest.
pub fn read(path: &Path, which: Which) -> Result<(PathBuf, Manifest), CheckpointError> {
    let folder = checkpoint::find(path, which)?;
    let manifest = checkpoint::load_manifest(&folder)?;
    Ok((folder, manifest))
}

/// Says which checkpoint was taken, of which run, how far and how good it is, in one line.
pub fn announce(folder: &Path, manifest: &Manifest) {
    say!("checkpoint {}: {}", folder.display(), Origin::of(folder, manifest));
    if let Some(left_out) = manifest.left_out() {
        tracing::warn!("{left_out}");
    }
}

/// A checkpoint's configuration for evaluating it here.
pub fn for_evaluation(folder: &Path, manifest: &Manifest) -> RunConfig {
    let trained = RunConfig::default();
    manifest.config.clone().with(|c| {
        c.run.run_scope = RunScope::EvalOnly;
        c.checkpoints.from_checkpoint = Some(folder.into());
        c.checkpoints.last_epoch_of_checkpoint = None;
        c.checkpoints.from_pretrained_params = None;
        c.run.report_file = None;
        c.data.global_batch_size = None;
        c.machine.nproc = trained.machine.nproc;
        c.machine.device = trained.machine.device;
        c.machine.threads = trained.machine.threads;
        c.run.benchmark = false;
        c.run.checks = false;
        c.checkpoints.overwrite = false;
    })
}

/// What a checkpoint was trained with, for trainings of their own that start from its weights.
pub fn settings(manifest: &Manifest) -> RunConfig {
    let new = RunConfig::default();
    manifest.config.clone().with(|c| {
        c.run.output_dir = new.run.output_dir;
        c.run.report_file = None;
        c.run.run_scope = RunScope::TrainEval;
        c.run.max_steps = 0;
        c.run.benchmark = false;
        c.run.checks = false;
        c.quantization.qat = false;
        c.checkpoints.from_checkpoint = None;
        c.checkpoints.last_epoch_of_checkpoint = None;
        c.checkpoints.from_pretrained_params = None;
        // It was said of the weights that training started from, not of this checkpoint's.
        c.checkpoints.allow_mismatch = false;
        c.checkpoints.overwrite = false;
    })
}
