//! Which network is trained, for what images and classes.

#[cfg(feature = "cli")]
use super::list::parse_list;
use serde::{Deserialize, Serialize};

/// Which network is trained, for what images and classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(rename_all = "kebab-case")]
pub struct ModelSettings {
    /// Name of the network, e.g. `ResNet50`.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model", default_value = "ResNet50"))]
    pub model_arch_name: String,
    /// Number of classes (none: that of the data; 1000 where no data tells it). One that the data does not have is an
    /// error.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model", allow_negative_numbers = true))]
    pub num_of_class: Option<usize>,
    /// Channels, height, width of an input image; a fourth channel is empty, for hardware that wants it.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model", value_parser = parse_list::<usize, 3>, default_value = "3,224,224", value_name = "LIST"))]
    pub image_shape: [usize; 3],
    /// Start the last BatchNorm of every residual branch at gamma = 0.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub zero_gamma: bool,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            model_arch_name: "ResNet50".into(),
            num_of_class: None,
            image_shape: [3, 224, 224],
            zero_gamma: false,
        }
    }
}
