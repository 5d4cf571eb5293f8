//! `octrain graph`: a network as it is built, or as a checkpoint holds it, and after every pass the plan has on.

use super::args::RunFlags;
use super::{Exit, checkpoint_base};
use crate::checkpoint;
use crate::config::{RunConfig, UNTOLD_CLASSES};
use crate::graph::Graph;
use crate::metrics::{print, say};
use crate::models;
use crate::passes::Passes;
use crate::strategy::Purpose;
use anyhow::Result;
use clap::{ArgMatches, ValueEnum};

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line a node.
    Text,
    /// Graphviz.
    Dot,
}

/// Arguments of `octrain graph`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct GraphArgs {
    /// Settings.
    #[command(flatten)]
    pub flags: RunFlags,
    /// Text, or a picture for Graphviz (`| dot -Tsvg > graph.svg`).
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// What it is wanted for.
    #[arg(long = "for", value_enum, default_value_t)]
    pub wanted: Purpose,
    /// Print every stage, not only the last (text only).
    #[arg(long)]
    pub every_pass: bool,
}

/// The network that is wanted, and the settings with it: those of a checkpoint, or what the flags say.
fn network(args: &GraphArgs, matches: &ArgMatches) -> Result<(Graph, RunConfig)> {
    let given = args.flags.checkpoint(matches)?;
    if let Some(path) = given.folder {
        let (folder, manifest) = checkpoint_base::find(&path, given.which)?;
        let (config, _) = args.flags.resolve(&checkpoint_base::settings_of(&manifest), matches)?;
        let graph = checkpoint::load_graph(&folder, &manifest).map_err(Exit::checkpoint)?;
        return Ok((graph, config));
    }
    let (config, _) = args.flags.resolve(&RunConfig::default(), matches)?;
    let classes = config.model.num_of_class.unwrap_or_else(|| {
        tracing::info!(
            "{UNTOLD_CLASSES} classes, as there is no data here to count them: --num-of-class says otherwise"
        );
        UNTOLD_CLASSES
    });
    let built = models::build(&config.model.model_arch_name, config.model.image_shape, classes);
    Ok((built.map_err(Exit::configuration)?, config))
}

/// Runs the command.
pub fn main(args: &GraphArgs, matches: &ArgMatches) -> Result<u8> {
    let (graph, config) = network(args, matches)?;
    let every = args.every_pass && args.format == Format::Text;
    if every {
        say!("as built:\n{graph}");
    }
    let graph = Passes::default()
        .run(graph, &config.strategy(), args.wanted, |pass, graph| {
            if every {
                say!("after {} ({}):\n{graph}", pass.name(), pass.what());
            }
        })
        .map_err(Exit::configuration)?;
    match args.format {
        Format::Dot => print(graph.to_dot())?,
        Format::Text if !every => print(&graph)?,
        Format::Text => {}
    }
    Ok(0)
}
