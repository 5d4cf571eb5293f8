//! The checkpoint a run goes on from: which its settings name, and which of the folders as they are now that is. The
//! network of a job, the global batch it keeps and the decision of rank 0 all follow from this one answer.

use super::TrainError;
use crate::checkpoint::{self, CheckpointError, Which};
use crate::config::{CheckpointChoice, RunConfig, unlike};
use std::path::{Path, PathBuf};

/// What the settings of a run say of the checkpoint it goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named<'a> {
    /// A checkpoint, or a folder of some.
    folder: &'a Path,
    /// Which of several.
    which: Which,
    /// Without it there is nothing to run; else the run starts anew where there is none, and goes on only from its own.
    pub required: bool,
}

impl<'a> Named<'a> {
    /// The checkpoint that `config` names; none where it starts anew whatever there is.
    pub fn of(config: &'a RunConfig) -> Option<Self> {
        let (output, choice) = (&config.run.output_dir, config.checkpoints.last_epoch_of_checkpoint);
        let (folder, required) = match (&config.checkpoints.from_checkpoint, choice) {
            (Some(folder), _) => (folder, true),
            // A job that is restarted by its scheduler with the same command goes on where it was.
            (None, Some(CheckpointChoice::Auto)) => (output, false),
            (None, Some(CheckpointChoice::StartOver) | None) => return None,
            (None, Some(CheckpointChoice::Best | CheckpointChoice::Epoch(_))) => (output, true),
        };
        Some(Self { folder, which: choice.into(), required })
    }
}

/// Whether a run takes weights and momentum of its checkpoint to the first epoch again.
pub(super) fn starts_over(config: &RunConfig) -> bool {
    config.checkpoints.last_epoch_of_checkpoint == Some(CheckpointChoice::StartOver)
}

/// The checkpoint `config` goes on from, as the folders are now; none to start anew. `images`: of the training set.
///
/// # Errors
/// When there is none and one was asked for, or when `auto` finds one that was trained with other settings and may not
/// overwrite it.
pub(super) fn source(config: &RunConfig, images: usize) -> Result<Option<PathBuf>, TrainError> {
    let Some(Named { folder, which, required }) = Named::of(config) else { return Ok(None) };
    match checkpoint::find(folder, which) {
        Ok(path) if required => Ok(Some(path)),
        Ok(path) => own(config, images, path),
        Err(CheckpointError::NotFound { .. }) if !required => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// `auto` takes a checkpoint only if it is of the same training. The data may have been moved: as many images of the same
/// classes, whose names are compared later, are taken for the same.
fn own(config: &RunConfig, images: usize, path: PathBuf) -> Result<Option<PathBuf>, TrainError> {
    let manifest = checkpoint::load_manifest(&path)?;
    let same_images = manifest.steps_per_epoch == (images / manifest.global_batch.max(1)) as u64;
    let changed = unlike(manifest.settings(&path)?, config, same_images);
    match (changed.is_empty(), config.checkpoints.overwrite) {
        (true, _) => Ok(Some(path)),
        (false, true) => Ok(None),
        (false, false) => Err(CheckpointError::Occupied {
            path: config.run.output_dir.clone(),
            why: format!(
                "its furthest checkpoint {} was trained with other settings ({})",
                path.file_name().unwrap_or_default().to_string_lossy(),
                changed.join("; ")
            ),
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CheckpointChoice::{Auto, Best, Epoch, StartOver};

    fn with(output: &Path, from: Option<&str>, which: Option<CheckpointChoice>) -> RunConfig {
        RunConfig::default().with(|c| {
            c.run.output_dir = output.into();
            c.checkpoints.from_checkpoint = from.map(PathBuf::from);
            c.checkpoints.last_epoch_of_checkpoint = which;
        })
    }

    #[test]
    fn settings_name_a_checkpoint_that_must_be_there_or_may_be_or_none() {
        let named = |from, which| {
            let config = with(Path::new("out"), from, which);
            Named::of(&config).map(|n| (n.folder.display().to_string(), n.which, n.required))
        };
        let of = |folder: &str, which, required| Some((folder.to_string(), which, required));
        for (which, means) in [
            (None, Which::Auto),
            (Some(Auto), Which::Auto),
            (Some(Best), Which::Best),
            (Some(Epoch(3)), Which::Epoch(3)),
            (Some(StartOver), Which::Auto),
        ] {
            assert_eq!(named(Some("run"), which), of("run", means, true));
        }
        assert_eq!(named(None, None), None);
        assert_eq!(named(None, Some(StartOver)), None);
        assert_eq!(named(None, Some(Auto)), of("out", Which::Auto, false));
        assert_eq!(named(None, Some(Best)), of("out", Which::Best, true));
        assert_eq!(named(None, Some(Epoch(3))), of("out", Which::Epoch(3), true));
    }

    #[test]
    fn without_checkpoints_auto_starts_anew_and_a_number_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        for which in [Some(Auto), Some(StartOver), None] {
            assert_eq!(source(&with(dir.path(), None, which), 9).unwrap(), None);
        }
        let told = source(&with(dir.path(), None, Some(Epoch(3))), 9).unwrap_err().to_string();
        assert!(told.contains("no checkpoint"), "{told}");
    }
}
