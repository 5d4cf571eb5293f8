//! Choices of a run that are none of its strategy.

use serde::{Deserialize, Serialize};

/// Which parts of a run are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", value(rename_all = "snake_case"))]
pub enum RunScope {
    /// Train and evaluate every `eval-interval` epochs.
    #[default]
    TrainEval,
    /// Train only.
    TrainOnly,
    /// Evaluate a checkpoint only.
    EvalOnly,
}

/// Update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", value(rename_all = "lowercase"))]
pub enum Optimizer {
    /// Stochastic gradient descent with momentum.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay.
    Adamw,
}

/// Learning-rate schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", value(rename_all = "lowercase"))]
pub enum LrScheduler {
    /// Half a cosine from `lr` to 0 at the last step.
    #[default]
    Cosine,
    /// `lr` throughout.
    Constant,
}

/// Training augmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", value(rename_all = "kebab-case"))]
pub enum Augmentation {
    /// `pad-crop` for crops of at most 64 pixels, `random-resized-crop` above; `none` flip for digits.
    #[default]
    Auto,
    /// Random-resized-crop and horizontal flip; resize and centre-crop for evaluation.
    RandomResizedCrop,
    /// Pad by 4, random crop and horizontal flip.
    PadCrop,
    /// Pad by 2 and random crop, no flip (characters).
    PadCropNoFlip,
    /// No augmentation.
    None,
}
