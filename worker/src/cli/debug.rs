//! `octrain debug`: N ranks on this machine, deterministic, with every check on.

use super::args::RunFlags;
use super::local::{self, EventFlag, Own};
use crate::config::{RunConfig, RunScope};
use crate::launcher::Restarts;
use anyhow::Result;
use clap::ArgMatches;

/// Arguments of `octrain debug`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct DebugArgs {
    /// Settings of the run to look into. Not given, they are: 2 workers, 4 steps, no evaluation, checkpoints in
    /// `runs/debug`.
    #[command(flatten)]
    pub flags: RunFlags,
    /// What happens, as lines of JSON.
    #[command(flatten)]
    pub events: EventFlag,
}

/// The defaults of the debug mode.
fn base() -> RunConfig {
    RunConfig::default().with(|c| {
        c.machine.nproc = 2;
        c.machine.min_world = None;
        c.run.max_steps = 4;
        c.run.print_interval = 1;
        c.run.run_scope = RunScope::TrainOnly;
        c.run.output_dir = "runs/debug".into();
        c.run.deterministic = true;
        c.run.checks = true;
        c.checkpoints.overwrite = true;
    })
}

/// Runs the command.
pub fn main(args: &DebugArgs, matches: &ArgMatches) -> Result<u8> {
    let (mut config, given) = args.flags.resolve(&base(), matches)?;
    // Only its own folder is its to overwrite.
    config.checkpoints.overwrite &= !given.contains("output-dir") || given.contains("overwrite");
    args.flags.show(&config)?;
    local::run(&config, &Own { events: args.events.clone(), ..Own::default() }, Restarts::new(0))
}
