//! What a run is about, and how this rank reads its part of the images in the current generation.

use super::TrainError;
use super::group::{device, sharding};
use super::job::Job;
use super::setup::seed;
use crate::config::{DataSettings, RunConfig};
use crate::data::{DataConfig, Dataset, Geometry, TrainLoader};
use crate::session::{BuildPlan, Generation, Session};
use std::sync::Arc;
use tch::Device;

/// Microbatches that a benchmark on synthetic images makes and uses again.
const RING: usize = 2;

/// What does not change while a run lasts.
pub(super) struct Task<'a> {
    pub config: &'a RunConfig,
    pub session: &'a Session,
    pub job: &'a Job,
    /// How images are read, and which are this rank's in the current generation.
    pub data: DataConfig,
}

impl Task<'_> {
    /// A loader of this rank's part of the training set; none where no step is taken.
    pub fn loader(&self) -> Result<Option<TrainLoader>, TrainError> {
        let (config, data) = (self.config, &self.data);
        // Who takes no step wants no whole batch: post-training quantization looks at what images there are.
        let steps = |d: &Arc<Dataset>| config.run.epochs > 0 || d.len() >= data.sharding.global_batch();
        let train = self.job.train.clone().filter(steps);
        let loader = train.map(|d| TrainLoader::new(d, data.clone())).transpose()?;
        let repeats = config.run.benchmark && config.data.image_root == "synthetic";
        let loader = loader.map(|loader| if repeats { loader.repeating(RING) } else { loader });
        let cpu = device(&self.session.generation()) == Device::Cpu;
        Ok(loader.map(|loader| if cpu { loader } else { loader.raw() }))
    }
}

/// What loaders of this rank need to know, of images with so many channels.
pub(super) fn data_config(
    data: &DataSettings,
    channels: usize,
    plan: &BuildPlan,
    generation: &Generation,
) -> DataConfig {
    let here = generation.mine().map(|p| p.host.as_str());
    let local = generation.roster().iter().filter(|p| Some(p.host.as_str()) == here).count().max(1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    DataConfig {
        geometry: Geometry::new(data, channels),
        sharding: sharding(plan, generation),
        seed: seed(plan),
        threads: if data.data_threads > 0 { data.data_threads } else { (cores / local).max(1) },
        max_corrupt: data.max_corrupt_images,
    }
}
