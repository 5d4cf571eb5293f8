//! What a run starts from, and whether it may replace what is there.

use super::CheckpointChoice;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a run starts from, and whether it may replace what is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointSettings {
    /// Checkpoint folder to resume from (weights, optimizer, position).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints"))]
    pub from_checkpoint: Option<PathBuf>,
    /// Which checkpoint of `from-checkpoint` or `output-dir`: `auto` (the furthest; where `output-dir` holds none yet, the
    /// run starts anew), `best` (that of the highest top-1), a number of epochs, or `none` (a new run; with
    /// `from-checkpoint`, with its weights and momentum).
    #[cfg_attr(feature = "cli", arg(long, value_name = "WHICH", help_heading = "Checkpoints"))]
    pub last_epoch_of_checkpoint: Option<CheckpointChoice>,
    /// Checkpoint folder, weights file (safetensors, or what `torch.save` wrote) or folder of Paddle's to start from (weights
    /// only).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints"))]
    pub from_pretrained_params: Option<PathBuf>,
    /// Take what fits of pretrained weights: parameters may be missing, left over or of another shape, and nodes of the same
    /// name may be other operators.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub allow_mismatch: bool,

    /// Start anew in an output folder that holds checkpoints of another run: they are removed once the first new one is
    /// complete.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Checkpoints", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub overwrite: bool,
}
