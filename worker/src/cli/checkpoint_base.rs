//! Commands that work on a checkpoint start from the configuration it was trained with.

use super::Exit;
use crate::checkpoint::{self, CheckpointError, Manifest, Which};
use crate::config::{RunConfig, RunScope};
use std::path::{Path, PathBuf};

/// Finds a checkpoint: `which` is `auto` or a number of epochs.
pub fn find(path: &Path, which: Option<&str>) -> Result<(PathBuf, Manifest), Exit> {
    let which = match which {
        None | Some("auto" | "none") => Which::Auto,
        Some(n) => Which::Epoch(n.parse().map_err(|_| {
            Exit::configuration(format!(
                "--last-epoch-of-checkpoint is `{n}`; it is `auto` or a number of epochs"
            ))
        })?),
    };
    let read = || -> Result<_, CheckpointError> {
        let folder = checkpoint::find(path, which)?;
        let manifest = checkpoint::load_manifest(&folder)?;
        Ok((folder, manifest))
    };
    read().map_err(Exit::configuration)
}

/// A checkpoint's configuration for evaluating it here.
pub fn for_evaluation(folder: &Path, manifest: &Manifest) -> RunConfig {
    let trained = RunConfig::default();
    RunConfig {
        run_scope: RunScope::EvalOnly,
        from_checkpoint: Some(folder.into()),
        last_epoch_of_checkpoint: None,
        from_pretrained_params: None,
        report_file: None,
        global_batch_size: None,
        nproc: trained.nproc,
        device: trained.device,
        threads: trained.threads,
        benchmark: false,
        checks: false,
        ..manifest.config.clone()
    }
}
