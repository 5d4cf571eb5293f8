//! What commands that run something have in common.

use super::Exit;
use crate::config::{Given, GivenCheckpoint, RunConfig, given_checkpoint, resolve};
use crate::metrics::say;
use clap::ArgMatches;
use std::path::PathBuf;

/// What may be wrong with data that a checkpoint or a file is measured on.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Tolerance {
    /// Measure on data that lacks some of the classes.
    #[arg(long)]
    pub allow_missing_classes: bool,
    /// Corrupt images tolerated (none: 0.1 % of the set, at least 1).
    #[arg(long, value_name = "N")]
    pub max_corrupt_images: Option<usize>,
    /// Measure on the part of one folder of classes that `octrain train --val-fraction` holds out (not given: as the
    /// checkpoint was trained, where its own data is taken, else 0).
    #[arg(long, value_name = "PART", value_parser = fraction)]
    pub val_fraction: Option<f64>,
}

/// A number from 0 to below 1.
fn fraction(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..1.0).contains(part));
    part.ok_or_else(|| "it is a number from 0 to below 1".into())
}

/// The settings of a run, and where they come from.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct RunFlags {
    /// TOML file with the same keys; flags win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the resolved configuration, as a file that `--config` takes.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "true", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub show_config: bool,
    /// The settings.
    #[command(flatten)]
    pub run: RunConfig,
}

impl RunFlags {
    /// The configuration: `base`, then the file, then the flags.
    pub fn resolve(&self, base: &RunConfig, matches: &ArgMatches) -> Result<(RunConfig, Given), Exit> {
        resolve(base, self.config.as_deref(), &self.run, matches).map_err(Exit::configuration)
    }

    /// The checkpoint that the file and the flags name, which may bring the base.
    pub fn checkpoint(&self, matches: &ArgMatches) -> Result<GivenCheckpoint, Exit> {
        given_checkpoint(self.config.as_deref(), &self.run, matches).map_err(Exit::configuration)
    }

    /// Prints a configuration if that is wanted.
    pub fn show(&self, config: &RunConfig) -> anyhow::Result<()> {
        if self.show_config {
            say!("# configuration\n{}", toml::to_string(config)?);
        }
        Ok(())
    }
}
