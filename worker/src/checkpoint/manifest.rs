//! What a checkpoint is: everything but the network's graph and the tensors.

use super::{CheckpointError, RunIdentity, StartedFrom};
use crate::config::RunConfig;
use crate::data::Preprocessing;
use crate::graph::{Graph, NetworkFacts};
use crate::passes::Passes;
use crate::strategy::{Purpose, Strategy, Target};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Version of the format this code writes. 1: the first release; 2: with the run's identity, the network's graph,
/// preprocessing, strategy, and a configuration whose keys are open (see `stored.rs`).
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

impl Position {
    /// Name of its checkpoint's folder.
    pub fn folder_name(self) -> String {
        match self.step_in_epoch {
            0 => self.epoch.to_string(),
            step => format!("{}-{step}", self.epoch),
        }
    }
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

/// `manifest.json`. With the network's graph it is all that evaluating, exporting, verifying and quantizing need; only going
/// on with the training needs the settings of the run, `config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Version of octrain that wrote it.
    pub octrain_version: String,
    /// Seconds since 1970 when it was written.
    pub created_unix: u64,
    /// The run that wrote it; none in the first format, and where no run owns the folder.
    #[serde(default)]
    pub run: Option<RunIdentity>,
    /// What its training began with; none where the writer did not say.
    #[serde(default)]
    pub started_from: Option<StartedFrom>,
    /// Name of the network.
    pub model: String,
    /// Channels, height, width.
    pub image_shape: [usize; 3],
    /// Names of the classes, in the order of the logits.
    pub class_names: Vec<String>,
    /// How an image becomes the network's input. Its file has the loader's arithmetic besides, so that it says everything.
    #[serde(skip_serializing)]
    pub preprocessing: Preprocessing,
    /// What was trained: precision, memory order, and the recipe of quantization.
    pub strategy: Strategy,
    /// Names of the passes that made the training's graph of the network's, in order.
    pub passes: Vec<String>,
    /// Where the run stands.
    pub position: Position,
    /// Optimizer steps of an epoch; 0 where the program that trained does not count in epochs.
    pub steps_per_epoch: u64,
    /// Images of an optimizer step, over all workers; 0 as above.
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
    /// The resolved settings of the run, which only going on with it needs; none where a program of its own trained, or
    /// where they cannot be read (see [`Manifest::settings`]).
    pub config: Option<RunConfig>,
    /// The files, written and synced before this manifest.
    pub files: Vec<FileEntry>,
    /// Why the settings cannot be read, where they cannot.
    #[serde(skip)]
    pub unread: Option<String>,
    /// Keys that another version wrote and this one does not know; they were left out.
    #[serde(skip)]
    pub unknown: Vec<String>,
}

fn concluded() -> bool {
    true
}

impl Manifest {
    /// Of a network that was trained as `strategy` says by Octrain's own passes, at the first step: everything else is to be
    /// filled in. The classes are named in the order of the logits.
    pub fn new(
        network: &Graph,
        class_names: Vec<String>,
        preprocessing: Preprocessing,
        strategy: Strategy,
    ) -> Self {
        let shape = &network.node(network.input()).ty.shape;
        let passes = Passes::default().names(&strategy, &NetworkFacts::of(network), Purpose::Train);
        let qat = strategy.qat.as_ref().map(|qat| QatState {
            target: qat.target,
            calibrated: 0,
            observers_frozen: false,
        });
        Self {
            format: FORMAT,
            octrain_version: env!("CARGO_PKG_VERSION").into(),
            created_unix: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            run: None,
            started_from: None,
            model: network.name.clone(),
            image_shape: std::array::from_fn(|i| shape.get(i).copied().unwrap_or(0)),
            class_names,
            preprocessing,
            strategy,
            passes,
            position: Position::default(),
            steps_per_epoch: 0,
            global_batch: 0,
            world_size: 1,
            loss_scale: LossScaleState { scale: 1.0, good_steps: 0 },
            qat,
            concluded: true,
            metrics: BTreeMap::new(),
            config: None,
            files: Vec::new(),
            unread: None,
            unknown: Vec::new(),
        }
    }

    /// The settings of the run that wrote the checkpoint in `folder`.
    ///
    /// # Errors
    /// When it has none, or none that this version can read.
    pub fn settings(&self, folder: &Path) -> Result<&RunConfig, CheckpointError> {
        self.config.as_ref().ok_or_else(|| match &self.unread {
            Some(why) => CheckpointError::Setting {
                path: folder.join(super::store::MANIFEST),
                why: why.clone(),
                writer: self.octrain_version.clone(),
            },
            None => CheckpointError::NoSettings { path: folder.into() },
        })
    }

    /// The settings of a run with the checkpoint's own facts in their place: its network, the shape and preparation of its
    /// images, its strategy. What the checkpoint does not say is `base`'s.
    pub fn over(&self, base: &RunConfig) -> RunConfig {
        base.clone().with(|c| {
            c.model.model_arch_name = self.model.clone();
            c.model.image_shape = self.image_shape;
            self.preprocessing.set(&mut c.data);
            c.precision.amp = self.strategy.amp;
            c.precision.data_layout = self.strategy.layout;
            c.quantization.set(self.strategy.qat.as_ref());
        })
    }

    /// Whether a file is among those of the checkpoint.
    pub(super) fn lists(&self, name: &str) -> bool {
        self.files.iter().any(|f| f.name == name)
    }

    /// Whether the network's weights are an average of those that were trained.
    pub fn averaged(&self) -> bool {
        self.lists(super::store::UNAVERAGED)
    }

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
