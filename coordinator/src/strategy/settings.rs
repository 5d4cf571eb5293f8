//! The part of the run's configuration that strategy depends on, read from the configuration every worker sends.

use super::StrategyError;
use octrain_core::strategy::{DeviceChoice, ReduceType, StrategySettings, TestBackend};
use serde::Deserialize;

/// Settings by the names of their flags. Other keys of the configuration do not concern the coordinator; a key
/// missing here is an error, so that no default can differ from the worker's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobSettings {
    /// Images per microbatch.
    pub batch_size: u64,
    /// Images per step over all workers.
    pub global_batch_size: Option<u64>,
    /// Epochs in all.
    pub epochs: u64,
    /// Steps in all; 0: no limit.
    pub max_steps: u64,
    /// Measure steps instead of training.
    pub benchmark: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// What is trained.
    #[serde(flatten)]
    pub strategy: StrategySettings,
    /// Loss scale.
    pub scale_loss: f64,
    /// Adjust the loss scale.
    pub use_dynamic_loss_scaling: bool,
    /// Average the weights.
    pub model_ema: bool,
    /// Part of the average that stays, before it is adjusted.
    pub model_ema_decay: f64,
    /// Steps between updates of the average.
    pub model_ema_steps: u64,
    /// Device.
    pub device: DeviceChoice,
    /// Backend, in tests.
    #[serde(default)]
    pub test_backend: TestBackend,
    /// Compute threads per worker; 0: chosen.
    pub threads: u32,
    /// Gradient bucket in MiB.
    pub bucket_mib: f64,
    /// Type of gradients between workers.
    pub reduce_dtype: ReduceType,
    /// Only deterministic kernels.
    #[serde(default)]
    pub deterministic: bool,
}

impl JobSettings {
    /// Reads them from the configuration's JSON.
    pub fn parse(config_json: &str) -> Result<Self, StrategyError> {
        serde_json::from_str(config_json).map_err(|e| StrategyError::Config(e.to_string()))
    }
}
