//! What a run is about, found out before any rank or device is involved: network, data, and the specification the
//! coordinator decides from.

use super::TrainError;
use crate::config::{RunConfig, RunScope};
use crate::data::{Dataset, Found, Split, Wanted};
use crate::graph::{Graph, NetworkFacts};
use crate::models;
use crate::session::{JobSpec, ModelFacts, job_spec};
use crate::strategy::Purpose;
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
    let NetworkFacts { name, parameters, convolutions, batch_norms } = network.clone();
    ModelFacts { name, parameters, convolutions, batch_norms }
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
        let graph = models::build(&config.model.model_arch_name, config.model.image_shape, classes)?;
        Ok(Job { graph, train, val })
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
