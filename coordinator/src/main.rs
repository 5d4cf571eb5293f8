//! The `octrain-coordinator` binary.

use anyhow::{Context, Result};
use clap::Parser;
use octrain_coordinator::config::{CoordinatorConfig, DEFAULT_JOB};
use octrain_coordinator::job::Outcome;
use octrain_coordinator::server::{self, ServeError};
use octrain_proto::v1::AbortKind;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Coordinates the workers of one job: ranks, build plan, liveness, rendezvous.
#[derive(Parser)]
#[command(name = "octrain-coordinator", version)]
struct Args {
    /// Address to listen on; port 0 lets the system choose (the choice is printed).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:29400", env = "OCTRAIN_LISTEN")]
    listen: String,
    /// Workers the job consists of.
    #[arg(long, value_name = "N", env = "OCTRAIN_WORLD_SIZE")]
    world_size: u32,
    /// Name of the job; workers of another job are refused.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_JOB, env = "OCTRAIN_JOB_ID")]
    job_id: String,
    /// Generation of the membership; raise it when a job is started anew, so that leftovers are refused.
    #[arg(long, value_name = "N", default_value_t = 1, env = "OCTRAIN_GENERATION")]
    generation: u64,
    /// Seconds of silence after which a worker is taken for dead (heartbeats come five times as often).
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, allow_negative_numbers = true)]
    heartbeat_timeout: f64,
    /// Seconds within which every worker must register.
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, allow_negative_numbers = true)]
    register_timeout: f64,
}

fn seconds(flag: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("--{flag} is {value}: give seconds, e.g. 5"))
}

fn config(args: Args) -> Result<CoordinatorConfig> {
    let config = CoordinatorConfig {
        job_id: args.job_id,
        generation: args.generation,
        register_timeout: seconds("register-timeout", args.register_timeout)?,
        ..CoordinatorConfig::new(args.listen, args.world_size)
    }
    .with_heartbeat_timeout(seconds("heartbeat-timeout", args.heartbeat_timeout)?);
    config.validate()?;
    Ok(config)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("OCTRAIN_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let config = match config(Args::parse()) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("octrain-coordinator: {e:#}");
            return ExitCode::from(2);
        }
    };
    match run(config).await {
        Ok(code) => code,
        Err(e) => {
            eprintln!("octrain-coordinator: {e:#}");
            ExitCode::from(if e.downcast_ref::<ServeError>().is_some() { 2 } else { 1 })
        }
    }
}

/// Serves until the job has ended. Exit codes: 0 finished, 1 failed, 2 a configuration that cannot be run,
/// 130 stopped by a signal.
async fn run(config: CoordinatorConfig) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let serving = server::start(config).await?;
    // The one line on standard output: for scripts that chose port 0.
    println!("listening on {}", serving.address());
    let mut stopped = false;
    let outcome = loop {
        let name = tokio::select! {
            outcome = serving.over() => break outcome,
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        if stopped {
            return Ok(ExitCode::from(130));
        }
        stopped = true;
        serving.stop(name);
    };
    Ok(match outcome {
        Outcome::Finished { .. } => ExitCode::SUCCESS,
        Outcome::Failed { abort } => {
            eprintln!("octrain-coordinator: {}", abort.message);
            ExitCode::from(match abort.kind() {
                AbortKind::Configuration => 2,
                AbortKind::Shutdown => 130,
                _ => 1,
            })
        }
    })
}
