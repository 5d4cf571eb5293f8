//! Flags and TOML to one validated [`RunConfig`], before anything binds or allocates.

mod checkpoints;
mod choice;
mod continuity;
mod data;
mod effect;
mod error;
#[cfg(feature = "cli")]
mod list;
mod machine;
mod model;
mod numbers;
mod optimizer;
mod precision;
#[cfg(feature = "cli")]
mod resolve;
mod run;
mod run_config;
mod table;
mod validate;

pub use checkpoints::CheckpointSettings;
pub use choice::{Augmentation, CheckpointChoice, LrScheduler, NoCheckpointChoice, Optimizer, RunScope};
pub use continuity::{differences, unlike, with_former_defaults};
pub use data::DataSettings;
pub use effect::{effective, inert_keys, recipe_keys};
pub use error::{ConfigError, Given};
#[cfg(feature = "cli")]
pub use list::parse_list;
pub use machine::MachineSettings;
pub use model::ModelSettings;
pub use octrain_core::strategy::QuantizationSettings;
pub use optimizer::OptimizerSettings;
pub use precision::PrecisionSettings;
#[cfg(feature = "cli")]
pub use resolve::{GivenCheckpoint, given_checkpoint, resolve};
pub use run::RunSettings;
pub use run_config::{RunConfig, UNTOLD_CLASSES};
pub use validate::validate;
