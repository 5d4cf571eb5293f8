//! What a run is about, found out before any rank or device is involved: network, data, and the specification the
//! coordinator decides from.

use super::TrainError;
use super::resume::OTHER_NETWORK;
use super::source::{Named, source};
use crate::checkpoint::{self, CheckpointError, Manifest, Which};
use crate::config::{RunConfig, RunScope};
use crate::data::{Dataset, Found, Split, Wanted};
use crate::graph::{Graph, NetworkFacts};
use crate::import::{self, Imported, Wanted as Foreign};
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

/// The checkpoint or weights whose network a run's is, where it starts from some, and why there are none where that is left
/// to the rank that decides: it looks again at one that is taken only where it fits.
fn start(config: &RunConfig, images: usize) -> Result<(Option<PathBuf>, Option<TrainError>), TrainError> {
    let (found, refused) = match source(config, images) {
        Ok(found) => (found, None),
        Err(e) if Named::of(config).is_some_and(|named| !named.required) => (None, Some(e)),
        Err(e) => return Err(e),
    };
    match (found, &config.checkpoints.from_pretrained_params) {
        (None, Some(weights)) if weights.is_dir() && !import::says_its_network(weights) => {
            Ok((Some(checkpoint::find(weights, Which::Auto)?), refused))
        }
        (found, _) => Ok((found, refused)),
    }
}

/// The network of a run, before any pass: that of the checkpoint it starts from, where that is one of this name for such
/// images and so many classes; else the one that Octrain builds by this name. `images`: of the training set.
fn network(config: &RunConfig, images: usize, classes: usize) -> Result<Graph, TrainError> {
    let build = || models::build(&config.model.model_arch_name, config.model.image_shape, classes);
    let (folder, refused) = start(config, images)?;
    let Some(folder) = folder else {
        return match foreign(config, config.checkpoints.from_pretrained_params.as_deref())? {
            // For other classes it is built anew, and what of its weights fits is found out when they are taken.
            Some(Imported { network, .. }) if network.classes() == classes => Ok(network.graph),
            _ => build().map_err(|e| refused.unwrap_or(e.into())),
        };
    };
    let manifest = checkpoint::load_manifest(&folder)?;
    if !manifest.model.eq_ignore_ascii_case(&config.model.model_arch_name) {
        return build().map_err(|e| match e {
            ModelError::Unknown { .. } => other_network(&folder, &manifest, config),
            e => e.into(),
        });
    }
    let same = manifest.image_shape == config.model.image_shape && manifest.class_names.len() == classes;
    match (same, build()) {
        (true, _) => Ok(checkpoint::load_graph(&folder, &manifest)?),
        (false, Err(ModelError::Unknown { .. })) => Err(other_task(&folder, &manifest, config, classes)),
        (false, built) => Ok(built?),
    }
}

/// The network at `path`, where another program wrote it and it says itself what it is; it must be the run's.
pub(super) fn foreign(config: &RunConfig, path: Option<&Path>) -> Result<Option<Imported>, TrainError> {
    let Some(path) = path.filter(|path| import::says_its_network(path)) else { return Ok(None) };
    let wanted = Foreign {
        network: Some(config.model.model_arch_name.clone()),
        image_shape: Some(config.model.image_shape),
    };
    Ok(Some(import::read(path, &wanted)?))
}

/// A network that nobody knows by the name that was given, and that the checkpoint has under another.
fn other_network(folder: &Path, manifest: &Manifest, config: &RunConfig) -> TrainError {
    let (found, wanted) = (manifest.model.clone(), config.model.model_arch_name.clone());
    CheckpointError::Other { path: folder.into(), what: "the model", found, wanted, hint: OTHER_NETWORK }
        .into()
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
        let images = train.as_ref().map_or(0, |d| d.len());
        Ok(Job { graph: network(config, images, classes)?, train, val })
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
            c.machine.min_world = None;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::testing::snapshot;
    use crate::config::CheckpointChoice;

    #[test]
    fn a_network_of_somebody_s_own_is_that_of_the_checkpoint_a_run_starts_from_however_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut ours = snapshot(1, 0);
        let config = ours.manifest.config.take().unwrap().with(|c| {
            c.run.output_dir = dir.path().into();
            c.model.model_arch_name = ours.manifest.model.clone();
        });
        ours.manifest.config = Some(config.clone());
        checkpoint::save(dir.path(), &ours).unwrap();
        let with = |from: bool, which| {
            let config = config.clone().with(|c| {
                c.checkpoints.from_checkpoint = from.then(|| dir.path().into());
                c.checkpoints.last_epoch_of_checkpoint = which;
            });
            network(&config, 40, 1)
        };
        use CheckpointChoice::{Auto, Best, Epoch, StartOver};
        for which in [Some(Epoch(1)), Some(Best), Some(Auto)] {
            assert_eq!(with(false, which).unwrap(), ours.graph, "{which:?}");
            assert_eq!(with(true, which).unwrap(), ours.graph, "{which:?}");
        }
        assert_eq!(with(true, Some(StartOver)).unwrap(), ours.graph);
        assert!(matches!(with(false, None), Err(TrainError::Model(ModelError::Unknown { .. }))));
        // Under another name, that it has there is said.
        for from in [true, false] {
            let config = config.clone().with(|c| {
                c.model.model_arch_name = "Another".into();
                match from {
                    true => c.checkpoints.from_checkpoint = Some(dir.path().into()),
                    false => c.checkpoints.from_pretrained_params = Some(dir.path().into()),
                }
            });
            let told = network(&config, 40, 1).unwrap_err().to_string();
            let model = format!("the model is {} there and Another here", ours.manifest.model);
            assert!(told.contains(&model) && told.contains("--model-arch-name"), "{told}");
        }
        // Of another training: why it is not taken is said, and not that nobody knows its network.
        let other = config.with(|c| {
            c.checkpoints.last_epoch_of_checkpoint = Some(Auto);
            c.optimizer.lr = 0.5;
        });
        let told = network(&other, 40, 1).unwrap_err().to_string();
        assert!(told.contains("was trained with other settings"), "{told}");
    }
}
