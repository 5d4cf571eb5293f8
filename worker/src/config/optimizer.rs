//! The update rule, its schedule and the loss.

use super::{LrScheduler, Optimizer};
use serde::{Deserialize, Serialize};

/// The update rule, its schedule and the loss. Times in epochs; what `weight-decay` means is the rule's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(rename_all = "kebab-case")]
pub struct OptimizerSettings {
    /// Update rule.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", value_enum, default_value_t))]
    pub optimizer: Optimizer,
    /// Momentum (sgd).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.875, allow_hyphen_values = true)
    )]
    pub momentum: f64,
    /// Nesterov's form (sgd).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub nesterov: bool,
    /// Momentum of the first moment (adamw).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.9, allow_hyphen_values = true)
    )]
    pub adam_beta1: f64,
    /// Momentum of the second moment (adamw).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.999, allow_hyphen_values = true)
    )]
    pub adam_beta2: f64,
    /// What is added to the root of the second moment (adamw).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 1e-8, allow_hyphen_values = true)
    )]
    pub adam_epsilon: f64,
    /// L2 factor (sgd); part of a weight, times the learning rate, that decays in a step (adamw; 0.01 is usual).
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = "Optimizer",
            default_value_t = 3.0517578125e-05,
            allow_hyphen_values = true
        )
    )]
    pub weight_decay: f64,
    /// Decay everything as the weights of layers do, but what another option says otherwise of.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub bn_weight_decay: bool,
    /// Decay of the scales and shifts of normalisations and of the factors of branches (none: 0, or with --bn-weight-decay that of weights).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", value_name = "RATE", allow_hyphen_values = true)
    )]
    pub norm_weight_decay: Option<f64>,
    /// Decay of the biases of layers (none: as above).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", value_name = "RATE", allow_hyphen_values = true)
    )]
    pub bias_weight_decay: Option<f64>,
    /// Decay of class tokens and of embeddings of positions (none: as above).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", value_name = "RATE", allow_hyphen_values = true)
    )]
    pub transformer_embedding_decay: Option<f64>,
    /// Largest Euclidean norm of a step's gradient, over all parameters; longer ones are scaled down to it (none: as they are).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", value_name = "NORM", allow_hyphen_values = true)
    )]
    pub clip_grad_norm: Option<f64>,
    /// Keep an exponential moving average of the weights, which is then evaluated, saved and exported in their place.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub model_ema: bool,
    /// Part of the average that stays in an update, as torchvision's script takes it: adjusted to images a step and epochs.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.99998, allow_hyphen_values = true)
    )]
    pub model_ema_decay: f64,
    /// Steps from one update of the average to the next.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", default_value_t = 32))]
    pub model_ema_steps: u64,
    /// Label smoothing.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.1, allow_hyphen_values = true)
    )]
    pub label_smoothing: f64,
    /// Schedule.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", value_enum, default_value_t, ignore_case = true)
    )]
    pub lr_scheduler: LrScheduler,
    /// Peak learning rate.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.256, allow_hyphen_values = true)
    )]
    pub lr: f64,
    /// Linear warm-up, in epochs, fractions allowed (none: 5, but at most a tenth of the run).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Optimizer", allow_hyphen_values = true))]
    pub warmup_epochs: Option<f64>,
    /// Learning rate at the start of warm-up.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Optimizer", default_value_t = 0.0, allow_hyphen_values = true)
    )]
    pub warmup_start_lr: f64,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::Sgd,
            momentum: 0.875,
            nesterov: false,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            weight_decay: 3.0517578125e-05,
            bn_weight_decay: false,
            norm_weight_decay: None,
            bias_weight_decay: None,
            transformer_embedding_decay: None,
            clip_grad_norm: None,
            model_ema: false,
            model_ema_decay: 0.99998,
            model_ema_steps: 32,
            label_smoothing: 0.1,
            lr_scheduler: LrScheduler::Cosine,
            lr: 0.256,
            warmup_epochs: None,
            warmup_start_lr: 0.0,
        }
    }
}
