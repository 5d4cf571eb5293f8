//! The command line, one file per subcommand.

mod advice;
mod analyze;
mod args;
mod bench;
mod checkpoint_base;
mod classifier;
mod compare;
mod credentials;
mod debug;
mod doctor;
mod eval;
mod export;
mod graph;
mod import;
mod in_vain;
mod infer;
mod launch;
mod local;
mod output;
mod plan;
mod predict;
mod provenance;
mod quantize;
mod quickstart;
mod recipe;
mod resize;
mod resume;
mod shared_token;
mod status;
mod train;
mod verify;
mod worker;

use crate::checkpoint::CheckpointError;
use crate::import::ImportError;
use crate::launcher::{
    EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_OK, follow_launcher, logging, signals,
};
use crate::metrics::{self, Reader, last_word, print};
use crate::native;
use crate::session::FailureKind;
use crate::session::machine::CudaError;
use crate::trainer::TrainError;
use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use octrain_coordinator::exit_code;
use std::io::Write;
use std::process::ExitCode;

/// Distributed training of convolutional networks; quantization-aware with one flag, and the deployed INT8 engine
/// does what training measured.
#[derive(Parser)]
#[command(name = "octrain", version, arg_required_else_help = true, after_help = WORDS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train on this host: embeds the coordinator and starts one worker per `--nproc`.
    #[command(after_help = exit_code::help())]
    Train(train::TrainArgs),
    /// Evaluate a checkpoint, with its own configuration unless flags say otherwise.
    Eval(eval::EvalArgs),
    /// Make a checkpoint of a network that another program trained: PyTorch, Paddle, ONNX.
    Import(import::ImportArgs),
    /// Write a checkpoint as an ONNX file: FP32, or INT8 for one runtime.
    Export(export::ExportArgs),
    /// Run an exported file in a runtime: accuracy on a data set, or throughput and latency.
    Infer(infer::InferArgs),
    /// Classify images with an exported file: the best classes of each, by name, with their probabilities.
    Predict(predict::PredictArgs),
    /// Compare the training graph with an exported file in its runtime, on the same images.
    Verify(verify::VerifyArgs),
    /// Rank layers by what quantizing them costs, show ranges and histograms, propose --qat-skip for a budget.
    Analyze(analyze::AnalyzeArgs),
    /// Join this host's workers to a coordinator: `octrain launch --coordinator HOST:PORT -- <train flags>`.
    #[command(after_help = exit_code::help())]
    Launch(launch::LaunchArgs),
    /// Say what a job is doing, as its coordinator tells it: workers, step, speed, generations. Ends with 0 where it runs or is
    /// done, with 3 where it failed, and with 1 where nobody answers.
    Status(status::StatusArgs),
    /// Say how many workers a running job that goes on without some of them is to have. Ends with 0 where that is taken, with 2 where it
    /// cannot be, with 3 where the job has not started, and with 1 where nobody answers.
    Resize(resize::ResizeArgs),
    /// The whole path on one data set: AMP training, QAT and its control, export, INT8 inference, a table.
    Quickstart(quickstart::QuickstartArgs),
    /// Post-training quantization, QAT and its floating-point control from one checkpoint, with the deployed accuracy
    /// of each.
    Compare(compare::CompareArgs),
    /// Post-training quantization of a checkpoint: calibrated, measured before and after, and saved as one that `export`,
    /// `verify` and `infer` take.
    Quantize(quantize::QuantizeArgs),
    /// Time steps, sums over workers, inference and input, and compare two such reports.
    Bench(bench::BenchArgs),
    /// Print ranks, strategy and pass list with reasons, without training.
    Plan(plan::PlanArgs),
    /// Print a network, before or after its passes, as text or as a picture for Graphviz.
    Graph(graph::GraphArgs),
    /// Single-node debug mode: deterministic, every check on, graphs and plan shown, a few steps.
    Debug(debug::DebugArgs),
    /// Explain the words that Octrain prints: generation, superset, LSB, dB, dead channels, ...
    Glossary,
    /// Say whether the CUDA libraries load, and with --gpu whether the first GPU does what the CPU does.
    #[command(hide = true)]
    Doctor(doctor::DoctorArgs),
    /// One worker; started by `train` and `launch`.
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
}

impl Command {
    /// Whether the work waits for whoever reads what it says.
    fn reader(&self) -> Reader {
        match self {
            Command::Train(_)
            | Command::Eval(_)
            | Command::Launch(_)
            | Command::Debug(_)
            | Command::Worker(_)
            | Command::Quickstart(_)
            | Command::Compare(_)
            | Command::Quantize(_) => Reader::NotAwaited,
            Command::Bench(args) => args.reader(),
            Command::Export(_)
            | Command::Import(_)
            | Command::Infer(_)
            | Command::Predict(_)
            | Command::Verify(_)
            | Command::Analyze(_)
            | Command::Plan(_)
            | Command::Status(_)
            | Command::Resize(_)
            | Command::Graph(_)
            | Command::Glossary
            | Command::Doctor(_) => Reader::Awaited,
        }
    }
}

/// What `--help` says at its end.
const WORDS: &str =
    "Words like generation, superset, LSB, dB or dead: octrain glossary\nExit codes: octrain train --help";
/// The glossary, as it stands in the documentation.
const GLOSSARY: &str = include_str!("../../../docs/glossary.md");

/// An error with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    fn configuration(e: impl std::fmt::Display + 'static) -> Self {
        Self { code: EXIT_CONFIGURATION, message: advice::told(&e) }
    }

    /// Of a run: trying again helps where nothing has to be changed, as with data that cannot be read for now.
    fn of_run(e: TrainError) -> Self {
        let code = match e.kind() {
            FailureKind::Configuration => EXIT_CONFIGURATION,
            FailureKind::External => EXIT_ABORTED,
            _ => EXIT_ERROR,
        };
        Self { code, message: advice::told(&e) }
    }

    /// Of GPUs that cannot be used: a driver that fails may work the next time.
    fn of_gpus(e: CudaError) -> Self {
        let code = if matches!(e, CudaError::Driver { .. }) { EXIT_ERROR } else { EXIT_CONFIGURATION };
        Self { code, message: advice::told(&e) }
    }

    /// Of an import: a file that is damaged, or is no network that is taken, is the command's to change.
    fn import(e: ImportError) -> Self {
        let code = if e.is_configuration() { EXIT_CONFIGURATION } else { EXIT_ERROR };
        Self { code, message: advice::told(&e) }
    }

    /// Of a checkpoint that cannot be used: a damaged one is no fault of the command.
    fn checkpoint(e: CheckpointError) -> Self {
        let code = if e.is_configuration() { EXIT_CONFIGURATION } else { EXIT_ERROR };
        Self { code, message: advice::told(&e) }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let done = follow_launcher().map_err(anyhow::Error::from).and_then(|()| {
        // A panic has told itself; its exit code is that of any other failure.
        std::panic::catch_unwind(run).unwrap_or_else(|_| {
            Err(anyhow::anyhow!("ended by the panic above; this is a defect of Octrain, please report it"))
        })
    });
    match done {
        Ok(code) => {
            metrics::finish();
            ExitCode::from(code)
        }
        Err(e) => {
            let exit = e.downcast_ref::<Exit>();
            // A conclusion that was told already has no message.
            if exit.is_none_or(|x| !x.message.is_empty()) {
                last_word(format_args!("octrain: {}", advice::with_causes(&e)));
            }
            // Without what libraries do at the end of a process: a failed run may have left a thread inside of one.
            metrics::finish();
            let _ = std::io::stdout().flush();
            native::leave(exit.map_or(EXIT_ERROR, |x| x.code))
        }
    }
}

fn run() -> Result<u8> {
    let matches = Cli::command().try_get_matches().unwrap_or_else(|e| {
        if e.use_stderr() {
            // What is known of the command line says whom to tell.
            let _ = e.print();
            launch::misspelt(std::env::args_os().skip(1), &e);
            std::process::exit(i32::from(EXIT_CONFIGURATION));
        }
        e.exit()
    });
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let (_, sub) = matches.subcommand().expect("clap asks for one");
    metrics::start(cli.command.reader()).context("cannot start the thread that writes the output")?;
    logging::init(if matches!(cli.command, Command::Debug(_)) { "octrain=debug,info" } else { "info" })?;
    if cli.command.reader() == Reader::NotAwaited {
        signals::install().context("cannot listen for signals")?;
    }
    match &cli.command {
        Command::Train(args) => train::main(args, sub),
        Command::Eval(args) => eval::main(args, sub),
        Command::Import(args) => import::main(args),
        Command::Export(args) => export::main(args),
        Command::Infer(args) => infer::main(args),
        Command::Predict(args) => predict::main(args),
        Command::Verify(args) => verify::main(args),
        Command::Analyze(args) => analyze::main(args),
        Command::Launch(args) => launch::main(args),
        Command::Quickstart(args) => quickstart::main(args).map(|()| 0),
        Command::Compare(args) => compare::main(args),
        Command::Quantize(args) => quantize::main(args, sub),
        Command::Bench(args) => bench::main(args, sub),
        Command::Plan(args) => plan::main(args, sub),
        Command::Status(args) => status::main(args),
        Command::Resize(args) => resize::main(args),
        Command::Graph(args) => graph::main(args, sub),
        Command::Debug(args) => debug::main(args, sub),
        Command::Doctor(args) => doctor::main(args),
        Command::Glossary => print(GLOSSARY).map(|()| EXIT_OK).map_err(Into::into),
        Command::Worker(args) => worker::main(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataError;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_may_work_the_next_time_is_no_configuration_error() {
        let driver = CudaError::Driver { why: "CUDA_ERROR_NOT_READY".into() };
        assert_eq!(Exit::of_gpus(driver).code, EXIT_ERROR);
        assert_eq!(Exit::of_gpus(CudaError::NoDriver).code, EXIT_CONFIGURATION);
        let missing = CudaError::NoLibraries { gpu: "H100".into(), place: "x".into() };
        assert_eq!(Exit::of_gpus(missing).code, EXIT_CONFIGURATION);
        let stale = DataError::Unlisted { path: "train".into(), why: "Stale file handle".into() };
        assert_eq!(Exit::of_run(stale.into()).code, EXIT_ERROR);
        let none = DataError::Missing { path: "train".into(), why: "no such folder".into() };
        assert_eq!(Exit::of_run(none.into()).code, EXIT_CONFIGURATION);
        let changed = TrainError::FolderChanged { what: "the checkpoint is gone", planned: 4, now: 8 };
        assert_eq!(Exit::of_run(changed).code, EXIT_ABORTED);
    }
}
