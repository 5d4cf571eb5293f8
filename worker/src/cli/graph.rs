//! `octrain graph`: a network as it is built, and after every pass the plan has on.

use super::Exit;
use super::args::RunFlags;
use crate::config::{RunConfig, UNTOLD_CLASSES};
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

/// Runs the command.
pub fn main(args: &GraphArgs, matches: &ArgMatches) -> Result<u8> {
    let (config, _) = args.flags.resolve(&RunConfig::default(), matches)?;
    let classes = config.model.num_of_class.unwrap_or_else(|| {
        tracing::info!(
            "{UNTOLD_CLASSES} classes, as there is no data here to count them: --num-of-class says otherwise"
        );
        UNTOLD_CLASSES
    });
    let built = models::build(&config.model.model_arch_name, config.model.image_shape, classes);
    let graph = built.map_err(Exit::configuration)?;
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
