//! `octrain eval`: a checkpoint on a validation set, by the training graph.

use super::args::RunFlags;
use super::{Exit, checkpoint_base, local};
use crate::config::RunScope;
use crate::launcher::Restarts;
use anyhow::Result;
use clap::ArgMatches;

/// Arguments of `octrain eval`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct EvalArgs {
    /// Settings; those not given are the checkpoint's.
    #[command(flatten)]
    pub flags: RunFlags,
}

/// Runs the command.
pub fn main(args: &EvalArgs, matches: &ArgMatches) -> Result<u8> {
    let given = args.flags.checkpoint(matches)?;
    let path =
        given.folder.ok_or_else(|| Exit::configuration("octrain eval needs --from-checkpoint FOLDER"))?;
    let (folder, manifest) = checkpoint_base::find(&path, given.which)?;
    let (config, given) =
        args.flags.resolve(&checkpoint_base::for_evaluation(&folder, &manifest), matches)?;
    let mut config = checkpoint_base::on_its_data(config, &given, &folder, &manifest)?;
    config.checkpoints.from_checkpoint = Some(folder.clone());
    config.checkpoints.last_epoch_of_checkpoint = None;
    config.run.run_scope = RunScope::EvalOnly;
    args.flags.show(&config)?;
    checkpoint_base::announce(&folder, &manifest);
    local::run(&config, &local::Own::default(), Restarts::new(0))
}
