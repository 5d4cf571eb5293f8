//! What a checkpoint is: everything but the tensors.

use super::RunIdentity;
use crate::config::RunConfig;
use crate::strategy::Target;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the format this code writes. 1: the first; 2: with the run's identity, and a configuration whose keys are
/// open (see `stored.rs`).
pub const FORMAT: u32 = 2;

/// Where a run stands; with the seed and the global batch, this is the whole state of the sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Position {
    /// Epochs completed.
    pub epoch: u32,
    /// Optimizer steps done in the epoch that runs.
    pub step_in_epoch: u64,
    /// Optimizer steps done in all.
    pub global_step: u64,
}

/// State of the loss scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LossScaleState {
    /// The factor.
    pub scale: f64,
    /// Finite steps since it last changed.
    pub good_steps: u32,
}

/// State of quantization; the ranges themselves are among the tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QatState {
    /// Runtime whose placement was trained.
    pub target: Target,
    /// Quantizers that have a range.
    pub calibrated: usize,
    /// Ranges move no more.
    pub observers_frozen: bool,
}

/// A file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileEntry {
    /// Name within the folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Version of octrain that wrote it.
    pub octrain_version: String,
    /// Seconds since 1970 when it was written.
    pub created_unix: u64,
    /// The run that wrote it; none in the first format.
    #[serde(default)]
    pub run: Option<RunIdentity>,
    /// Name of the network.
    pub model: String,
    /// Channels, height, width.
    pub image_shape: [usize; 3],
    /// Names of the classes, in the order of the logits.
    pub class_names: Vec<String>,
    /// Where the run stands.
    pub position: Position,
    /// Optimizer steps of an epoch, and images of a step.
    pub steps_per_epoch: u64,
    /// Images of an optimizer step, over all workers.
    pub global_batch: usize,
    /// Workers of the run that wrote it (a resumed run may have another number).
    pub world_size: usize,
    /// Loss scale.
    pub loss_scale: LossScaleState,
    /// Quantization, if trained with it.
    pub qat: Option<QatState>,
    /// What follows a run's last step (BatchNorm's new statistics, the last evaluation) is done, or the steps are not. A
    /// writer that does not say so has concluded.
    #[serde(default = "concluded")]
    pub concluded: bool,
    /// Last evaluation.
    pub metrics: BTreeMap<String, f64>,
    /// The resolved configuration of the run.
    pub config: RunConfig,
    /// The files, written and synced before this manifest.
    pub files: Vec<FileEntry>,
    /// Keys that another version wrote and this one does not know; they were left out.
    #[serde(skip)]
    pub unknown: Vec<String>,
}

fn concluded() -> bool {
    true
}

impl Manifest {
    /// What of it this version does not understand and leaves out, for people; none when it understands all.
    pub fn left_out(&self) -> Option<String> {
        (!self.unknown.is_empty()).then(|| {
            format!(
                "octrain {} wrote what this version does not know and leaves out: {}",
                self.octrain_version,
                self.unknown.join(", ")
            )
        })
    }
}
