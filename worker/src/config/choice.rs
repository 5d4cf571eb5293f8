//! Choices of a run that are none of its strategy.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

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

/// Which checkpoint of a folder a run starts from, and from where in its training; in text `auto`, `best`, a number of
/// epochs, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum CheckpointChoice {
    /// The furthest.
    Auto,
    /// That of the highest top-1.
    Best,
    /// The one at the end of this many epochs.
    Epoch(u32),
    /// The furthest of the checkpoint that is named, whose training starts over: its weights and what the update rule keeps,
    /// from the first epoch. Where none is named, a new run.
    StartOver,
}

impl fmt::Display for CheckpointChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckpointChoice::Auto => f.write_str("auto"),
            CheckpointChoice::Best => f.write_str("best"),
            CheckpointChoice::Epoch(epoch) => write!(f, "{epoch}"),
            CheckpointChoice::StartOver => f.write_str("none"),
        }
    }
}

/// A word that names no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of `auto`, `best`, `none` and a number of epochs")]
pub struct NoCheckpointChoice(String);

impl FromStr for CheckpointChoice {
    type Err = NoCheckpointChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(CheckpointChoice::Auto),
            "best" => Ok(CheckpointChoice::Best),
            "none" => Ok(CheckpointChoice::StartOver),
            number => {
                number.parse().map(CheckpointChoice::Epoch).map_err(|_| NoCheckpointChoice(number.into()))
            }
        }
    }
}

/// A choice as it stands in a file: a number of epochs may stand there as one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u32),
    Word(String),
}

impl TryFrom<Written> for CheckpointChoice {
    type Error = NoCheckpointChoice;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Number(epoch) => Ok(CheckpointChoice::Epoch(epoch)),
            Written::Word(text) => text.parse(),
        }
    }
}

impl From<CheckpointChoice> for String {
    fn from(choice: CheckpointChoice) -> Self {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::CheckpointChoice::{self, Auto, Best, Epoch, StartOver};

    #[test]
    fn a_choice_is_written_as_it_is_said_and_another_word_is_refused_with_those_there_are() {
        for (word, choice) in [("auto", Auto), ("best", Best), ("none", StartOver), ("7", Epoch(7))] {
            assert_eq!(word.parse(), Ok(choice));
            assert_eq!(serde_json::to_value(choice).unwrap(), word);
            assert_eq!(serde_json::from_value::<CheckpointChoice>(word.into()).unwrap(), choice);
        }
        assert_eq!(serde_json::from_value::<CheckpointChoice>(7.into()).unwrap(), Epoch(7));
        for word in ["newest", "-1", "1.5", ""] {
            let told = word.parse::<CheckpointChoice>().unwrap_err().to_string();
            assert!(told.contains(&format!("`{word}`")) && told.contains("`auto`, `best`"), "{told}");
        }
    }
}
