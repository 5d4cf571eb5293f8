//! `octrain train`: one host.

use super::args::RunFlags;
use super::{Exit, local};
use crate::config::RunConfig;
use crate::launcher::crowd;
use anyhow::Result;
use clap::ArgMatches;

/// Arguments of `octrain train`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct TrainArgs {
    /// Settings.
    #[command(flatten)]
    pub flags: RunFlags,
    /// Where the embedded coordinator listens (port 0: any free one).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen: String,
}

/// Runs the command.
pub fn main(args: &TrainArgs, matches: &ArgMatches) -> Result<u8> {
    if let Some(several) = crowd(|name| std::env::var(name).ok()) {
        return Err(Exit::configuration(several).into());
    }
    let (config, _) = args.flags.resolve(&RunConfig::default(), matches)?;
    args.flags.show(&config)?;
    local::run(&config, &args.listen)
}
