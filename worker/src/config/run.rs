//! How far a run goes, where its results go and what is told on the way.

use super::RunScope;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How far a run goes, where its results go and what is told on the way. Times in epochs or steps as named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(rename_all = "kebab-case")]
pub struct RunSettings {
    /// Where checkpoints go: `OUTPUT_DIR/<epoch>/`.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value = "output", visible_alias = "checkpoint-dir")
    )]
    pub output_dir: PathBuf,
    /// JSON lines of metrics; none when absent.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run"))]
    pub report_file: Option<PathBuf>,
    /// Trace of the steps as JSON for Perfetto, of all ranks: waiting for data, upload, forward, backward, every reduction,
    /// update; written at the end, none when absent. Of long runs the first steps.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run"))]
    pub trace_file: Option<PathBuf>,
    /// What is done.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run", value_enum, default_value_t))]
    pub run_scope: RunScope,
    /// Epochs in all.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 90, allow_negative_numbers = true)
    )]
    pub epochs: u32,
    /// Checkpoint every so many epochs.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 1, allow_negative_numbers = true)
    )]
    pub save_interval: u32,
    /// Checkpoint also every so many steps (0: only at epochs).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 0, allow_negative_numbers = true)
    )]
    pub save_interval_steps: u64,
    /// Evaluate every so many epochs.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 1, allow_negative_numbers = true)
    )]
    pub eval_interval: u32,
    /// Log every so many steps.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 10, allow_negative_numbers = true)
    )]
    pub print_interval: u64,
    /// Stop after so many optimizer steps in all (0: no limit).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 0, allow_negative_numbers = true)
    )]
    pub max_steps: u64,
    /// Time steps only: no evaluation, no checkpoint; images of `synthetic` are made once and used again.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub benchmark: bool,
    /// Steps timed by `benchmark`.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 100, allow_negative_numbers = true)
    )]
    pub benchmark_steps: u64,
    /// Steps before timing starts.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Run", default_value_t = 100, allow_negative_numbers = true)
    )]
    pub benchmark_warmup_steps: u64,
    /// Seed of initialisation, order and augmentation.
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = "Run",
            default_value_t = 42,
            visible_alias = "dali-random-seed",
            allow_negative_numbers = true
        )
    )]
    pub seed: u64,
    /// Use deterministic kernels only; an operation that has none is an error.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub deterministic: bool,
    /// Run every check while training: equal ranks after each step, the first layer with NaN or infinity (set by
    /// `octrain debug`).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Run", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, hide = true))]
    pub checks: bool,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            output_dir: "output".into(),
            report_file: None,
            trace_file: None,
            run_scope: RunScope::TrainEval,
            epochs: 90,
            save_interval: 1,
            save_interval_steps: 0,
            eval_interval: 1,
            print_interval: 10,
            max_steps: 0,
            benchmark: false,
            benchmark_steps: 100,
            benchmark_warmup_steps: 100,
            seed: 42,
            deterministic: false,
            checks: false,
        }
    }
}
