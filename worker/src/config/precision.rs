//! What a network computes in, and in which memory order.

use octrain_core::strategy::{Amp, Layout};
use serde::{Deserialize, Serialize};

/// What a network computes in, and in which memory order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(rename_all = "kebab-case")]
pub struct PrecisionSettings {
    /// Mixed precision.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Precision", value_enum, default_value_t, num_args = 0..=1, default_missing_value = "fp16"))]
    pub amp: Amp,
    /// Loss scale (start of the dynamic one).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Precision", default_value_t = 1.0, allow_hyphen_values = true)
    )]
    pub scale_loss: f64,
    /// Adjust the loss scale.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Precision", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub use_dynamic_loss_scaling: bool,
    /// Memory order.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Precision", value_enum, default_value_t, ignore_case = true)
    )]
    pub data_layout: Layout,
}

impl Default for PrecisionSettings {
    fn default() -> Self {
        Self { amp: Amp::Off, scale_loss: 1.0, use_dynamic_loss_scaling: false, data_layout: Layout::Nhwc }
    }
}
