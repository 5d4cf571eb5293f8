//! `octrain train`: one host.

use super::args::RunFlags;
use super::resume::{self, ResumeFlag};
use super::{Exit, local};
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
    /// Going on.
    #[command(flatten)]
    pub resume: ResumeFlag,
    /// Where the embedded coordinator listens (port 0: any free one).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen: String,
}

/// Runs the command.
pub fn main(args: &TrainArgs, matches: &ArgMatches) -> Result<u8> {
    if let Some(several) = crowd(|name| std::env::var(name).ok()) {
        return Err(Exit::configuration(several).into());
    }
    let config = resume::resolve(&args.flags, &args.resume, matches)?;
    args.flags.show(&config)?;
    resume::with_continuation(local::run(&config, &args.listen), &config, "octrain train")
}
