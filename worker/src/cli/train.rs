//! `octrain train`: one host.

use super::Exit;
use super::args::RunFlags;
use super::local::{self, RestartFlag};
use super::resume::{self, Again, ResumeFlag};
use crate::launcher::crowd;
use anyhow::Result;
use clap::ArgMatches;

/// Where the embedded coordinator listens if nothing else is said.
const ANY_PORT: &str = "127.0.0.1:0";

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
    #[arg(long, value_name = "HOST:PORT", default_value = ANY_PORT)]
    pub listen: String,
    /// Replacements.
    #[command(flatten)]
    pub restart: RestartFlag,
}

/// Runs the command.
pub fn main(args: &TrainArgs, matches: &ArgMatches) -> Result<u8> {
    if let Some(several) = crowd(|name| std::env::var(name).ok()) {
        return Err(Exit::configuration(several).into());
    }
    let listen = match args.listen.as_str() {
        ANY_PORT => String::new(),
        listen => format!(" --listen {}", resume::quoted(listen)),
    };
    let command = format!("octrain train{listen}{}", args.restart.again());
    let again = Again { command, needs: "" };
    let config = resume::resolve(&args.flags, &args.resume, matches, &again)?;
    args.flags.show(&config)?;
    resume::with_continuation(local::run(&config, &args.listen, args.restart.restarts()), &config, &again)
}
