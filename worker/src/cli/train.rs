//! `octrain train`: one host.

use super::Exit;
use super::args::RunFlags;
use super::local::{self, ANY_PORT, EventFlag, Own, RestartFlag};
use super::resume::{self, Again, ResumeFlag};
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
    #[arg(long, value_name = "HOST:PORT", default_value = ANY_PORT)]
    pub listen: String,
    /// Replacements.
    #[command(flatten)]
    pub restart: RestartFlag,
    /// What happens, as lines of JSON.
    #[command(flatten)]
    pub events: EventFlag,
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
    let command = format!("octrain train{listen}{}{}", args.restart.again(), args.events.again());
    let again = Again { command, needs: "" };
    let config = resume::resolve(&args.flags, &args.resume, matches, &again)?;
    args.flags.show(&config)?;
    let own = Own { listen: &args.listen, events: args.events.clone() };
    resume::with_continuation(local::run(&config, &own, args.restart.restarts()), &config, &again)
}
