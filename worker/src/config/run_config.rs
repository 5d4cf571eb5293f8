//! The resolved configuration of one run: every setting by the name of its flag, in groups.

use super::{
    CheckpointSettings, DataSettings, MachineSettings, ModelSettings, OptimizerSettings, PrecisionSettings,
    RunSettings,
};
use octrain_core::strategy::{QuantizationSettings, Strategy};
use serde::Serialize;

/// Classes of a network where no data tells how many: those of ImageNet.
pub const UNTOLD_CLASSES: usize = 1000;

/// Everything that decides a run. Its groups are a matter of the code: in files, in checkpoints and among the flags it is
/// one flat table, whose keys are the flags' names; flags win over the file.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct RunConfig {
    /// How far it goes, where its results go.
    #[serde(flatten)]
    #[cfg_attr(feature = "cli", command(flatten))]
    pub run: RunSettings,
    /// The network.
    #[serde(flatten)]
    #[cfg_attr(feature = "cli", command(flatten))]
    pub model: ModelSettings,
    /// The images.
    #[serde(flatten)]
    #[cfg_attr(feature = "cli", command(flatten))]
    pub data: DataSettings,
    /// Update rule, schedule and loss.
    #[serde(flatten)]
    #[cfg_attr(feature = "cli", command(flatten))]
    pub optimizer: OptimizerSettings,
    /// What it computes in.
    #[serde(flatten)]
    #[cfg_attr(feature = "cli", command(flatten))]
    pub precision: PrecisionSettings,
    /// Quantization-aware training.
    #[serde(flatten)]
    #[cfg_attr(feature = "cli", command(flatten))]
    pub quantization: QuantizationSettings,
    /// What it starts from.
    #[serde(flatten)]
    #[cfg_attr(feature = "cli", command(flatten))]
    pub checkpoints: CheckpointSettings,
    /// What of a machine it takes.
    #[serde(flatten)]
    #[cfg_attr(feature = "cli", command(flatten))]
    pub machine: MachineSettings,
}

impl RunConfig {
    /// The same configuration with some settings changed.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What is trained: the strategy that these settings make.
    pub fn strategy(&self) -> Strategy {
        Strategy {
            amp: self.precision.amp,
            layout: self.precision.data_layout,
            qat: self.quantization.recipe(),
        }
    }
}
