//! `octrain bench`: how long things take, as tables, and as JSON lines that `bench compare` holds against each other.

mod all_reduce;
mod compare;
mod infer;
mod input;
mod measured;
mod train;

use crate::metrics::Reader;
use anyhow::Result;
use clap::{ArgMatches, Args, Subcommand};

/// What every benchmark writes.
const FORM: &str = "The last line of standard output is a JSON object: `kind`, `settings`, `machine`, and numbers with the \
unit in their names. --report-file FILE adds that line to FILE, so that runs that alternate gather in two files.";

/// Arguments of `octrain bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What is timed.
    #[command(subcommand)]
    pub what: What,
}

/// What is timed.
#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Steps of a training: images per second, and where the time of a step goes.
    #[command(after_help = FORM)]
    Train(Box<train::BenchTrainArgs>),
    /// The sum over worker processes on this host, by size: time and bandwidth.
    #[command(after_help = FORM)]
    Allreduce(all_reduce::BenchAllReduceArgs),
    /// An exported file in a runtime, on synthetic input: images per second and latency.
    #[command(after_help = FORM)]
    Infer(infer::BenchInferArgs),
    /// Reading images: decoding, cropping, flipping and normalising them as training does, and nothing else.
    #[command(after_help = FORM)]
    Input(input::BenchInputArgs),
    /// The medians of two report files, and how far each file's runs lie apart.
    Compare(compare::BenchCompareArgs),
}

impl BenchArgs {
    /// Whether the work waits for whoever reads what it says.
    pub fn reader(&self) -> Reader {
        match self.what {
            What::Train(_) | What::Allreduce(_) => Reader::NotAwaited,
            What::Infer(_) | What::Input(_) | What::Compare(_) => Reader::Awaited,
        }
    }
}

/// Runs the command; `matches` are those of `bench`.
pub fn main(args: &BenchArgs, matches: &ArgMatches) -> Result<u8> {
    let (_, sub) = matches.subcommand().expect("clap asks for one");
    match &args.what {
        What::Train(args) => train::main(args, sub),
        What::Allreduce(args) => all_reduce::main(args),
        What::Infer(args) => infer::main(args),
        What::Input(args) => input::main(args),
        What::Compare(args) => compare::main(args),
    }
}
