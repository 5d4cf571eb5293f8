//! What a run is about, found out before any rank or device is involved: network, data, and the specification the
//! coordinator decides from.

use super::{TrainError, begin};
use crate::checkpoint::{self, CheckpointError, Manifest, Which};
use crate::config::{RunConfig, RunScope};
use crate::data::{Dataset, Found, Split, Wanted};
use crate::graph::{Graph, NetworkFacts};
use crate::models::{self, ModelError};
use crate::session::{JobSpec, ModelFacts, job_spec};
use crate::strategy::Purpose;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A run's network and data.
pub struct Job {
    /// The network as built, before any pass.
    pub graph: Graph,
    /// Training images; none for `eval_only`.
    pub train: Option<Arc<Dataset>>,
    /// Validation images; none for `train_only` and `benchmark`.
    pub val: Option<Arc<Dataset>>,
}

/// What the network is wanted for.
pub fn purpose(scope: RunScope) -> Purpose {
    match scope {
        RunScope::EvalOnly => Purpose::Eval,
        RunScope::TrainEval | RunScope::TrainOnly => Purpose::Train,
    }
}

/// Facts of a network as they are sent to the coordinator.
pub fn model_facts(network: &NetworkFacts) -> ModelFacts {
    let NetworkFacts { name, parameters, layers, batch_norms } = network.clone();
    ModelFacts { name, parameters, layers, batch_norms }
}

/// The checkpoint whose network a run's is, where it starts from one. One that a restart (`auto`) finds is looked at again
/// by the rank that decides, which says what is the matter with it.
fn start(config: &RunConfig) -> Result<Option<PathBuf>, TrainError> {
    match (&config.checkpoints.from_checkpoint, &config.checkpoints.from_pretrained_params) {
        (Some(path), _) => Ok(Some(checkpoint::find(path, begin::which(config)?)?)),
        (None, Some(path)) if path.is_dir() => Ok(Some(checkpoint::find(path, Which::Auto)?)),
        _ if config.checkpoints.last_epoch_of_checkpoint.as_deref() == Some("auto") => {
            Ok(checkpoint::find(&config.run.output_dir, Which::Auto).ok())
        }
        _ => Ok(None),
    }
}

/// The network of a run, before any pass: that of the checkpoint it starts from, where that is one of this name for such
/// images and so many classes; else the one that Octrain builds by this name.
fn network(config: &RunConfig, classes: usize) -> Result<Graph, TrainError> {
    let build = || models::build(&config.model.model_arch_name, config.model.image_shape, classes);
    let Some(folder) = start(config)? else { return Ok(build()?) };
    let manifest = match checkpoint::load_manifest(&folder) {
        Err(_)
            if config.checkpoints.from_checkpoint.is_none()
                && config.checkpoints.from_pretrained_params.is_none() =>
        {
            return Ok(build()?);
        }
        read => read?,
    };
    if !manifest.model.eq_ignore_ascii_case(&config.model.model_arch_name) {
        return Ok(build()?);
    }
    let same = manifest.image_shape == config.model.image_shape && manifest.class_names.len() == classes;
    match (same, build()) {
        (true, _) => Ok(checkpoint::load_graph(&folder, &manifest)?),
        (false, Err(ModelError::Unknown { .. })) => Err(other_task(&folder, &manifest, config, classes)),
        (false, built) => Ok(built?),
    }
}

/// A network of somebody's own is one for its images and its classes.
fn other_task(folder: &Path, manifest: &Manifest, config: &RunConfig, classes: usize) -> TrainError {
    let text = |shape: [usize; 3], classes: usize| {
        format!("for images {},{},{} of {classes} classes", shape[0], shape[1], shape[2])
    };
    CheckpointError::Other {
        path: folder.into(),
        what: "its network",
        found: text(manifest.image_shape, manifest.class_names.len()),
        wanted: text(config.model.image_shape, classes),
        hint: "; it is none of Octrain's, which can be built for others: give the data that it is for",
    }
    .into()
}

impl Job {
    /// Opens the data and builds the network for its classes; whatever is wrong with either is said here.
    pub fn open(config: &RunConfig) -> Result<Job, TrainError> {
        let open = |split| Dataset::open(split, &Wanted::of(&config.model, &config.data)).map(Arc::new);
        let trains = config.run.run_scope != RunScope::EvalOnly;
        let evaluates = config.run.run_scope != RunScope::TrainOnly;
        let train = trains.then(|| open(Split::Train)).transpose()?;
        let val = evaluates.then(|| open(Split::Val)).transpose()?;
        let classes = train.as_ref().or(val.as_ref()).map_or(0, |d| d.classes.len());
        Ok(Job { graph: network(config, classes)?, train, val })
    }

    /// What was found in each split that is used.
    pub fn found(&self) -> impl Iterator<Item = &Found> {
        self.train.iter().chain(&self.val).map(|d| &d.found)
    }

    /// The specification every worker of the run sends. Settings that differ by host are left out of it.
    pub fn spec(&self, config: &RunConfig) -> Result<JobSpec, TrainError> {
        let classes = Some(self.classes().len());
        let shared = config.clone().with(|c| {
            c.machine.nproc = 1;
            c.data.data_threads = 0;
            c.model.num_of_class = classes;
        });
        let value = serde_json::to_value(shared).map_err(|e| TrainError::Config(e.to_string()))?;
        let images = self.train.as_ref().map_or(0, |d| d.len() as u64);
        Ok(job_spec(
            &value,
            purpose(config.run.run_scope),
            model_facts(&NetworkFacts::of(&self.graph)),
            images,
        ))
    }

    /// Names of the classes, in the order of the logits.
    pub fn classes(&self) -> &[String] {
        self.train.as_ref().or(self.val.as_ref()).map_or(&[], |d| &d.classes)
    }
}
