//! The `octrain-coordinator` binary.

use anyhow::{Context, Result};
use clap::Parser;
use octrain_coordinator::certificates::{self, Made, MakeError, VALID};
use octrain_coordinator::config::{Access, CoordinatorConfig, DEFAULT_JOB, MAX_TIME};
use octrain_coordinator::exit_code::{self, ECHO, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK};
use octrain_coordinator::job::Outcome;
use octrain_coordinator::outlet::Standard;
use octrain_coordinator::server::{self, ServeError};
use octrain_coordinator::tls::TlsFiles;
use octrain_coordinator::token::JobToken;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};

/// How long the end waits for the output to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Coordinates the workers of one job: ranks, build plan, liveness, rendezvous.
#[derive(Parser)]
#[command(name = "octrain-coordinator", version, after_help = exit_code::help())]
struct Args {
    /// Address to listen on; port 0 lets the system choose (the choice is printed).
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:29400", env = "OCTRAIN_LISTEN")]
    listen: String,
    /// Workers the job consists of.
    #[arg(long, value_name = "N", env = "OCTRAIN_WORLD_SIZE", required_unless_present = "make_certs")]
    world_size: Option<u32>,
    /// Fewest workers the job goes on with when it loses some; without it, the job ends with any of them.
    #[arg(long, value_name = "N", env = "OCTRAIN_MIN_WORLD")]
    min_world: Option<u32>,
    /// Most workers the job may have once it runs: others that come are let in, and `octrain resize` goes up to it; without it,
    /// as many as it starts with. A step must have as many microbatches.
    #[arg(long, value_name = "N", env = "OCTRAIN_MAX_WORLD")]
    max_world: Option<u32>,
    /// Name of the job; workers of another job are refused.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_JOB, env = "OCTRAIN_JOB_ID")]
    job_id: String,
    /// Generation of the membership; raise it when a job is started anew, so that leftovers are refused.
    #[arg(long, value_name = "N", default_value_t = 1, env = "OCTRAIN_GENERATION")]
    generation: u64,
    /// Seconds of silence after which a worker is taken for dead (heartbeats come five times as often).
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, allow_negative_numbers = true)]
    heartbeat_timeout: f64,
    /// Seconds, once a worker is lost, within which all that are left must have come to the next generation; whoever lives and has
    /// not is given up as if it hung. Give more than a step and a save take [default: 60, or twice --heartbeat-timeout where that
    /// is longer].
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, requires = "min_world")]
    regroup_timeout: Option<f64>,
    /// Seconds within which every worker must register.
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, allow_negative_numbers = true)]
    register_timeout: f64,
    /// Seconds to stay after a job that failed before all workers had come, so that who comes late ends as it did.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, allow_negative_numbers = true)]
    linger_for_late: f64,
    /// File with the job's token, which launchers and `octrain status` are to be given too; every call without it is refused. The
    /// environment may have the token itself (OCTRAIN_TOKEN) in its place.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Listen on an address that other machines reach although the job has neither token nor certificates: anybody there can end it.
    #[arg(long)]
    insecure: bool,
    /// Authority of the job's certificates, in PEM; with it, connections are by TLS, and whoever shows no certificate of it is
    /// refused.
    #[arg(long, value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    tls_ca: Option<PathBuf>,
    /// Certificate of this coordinator.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// Key of that certificate.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    tls_key: Option<PathBuf>,
    /// Make the certificates of a job in this folder, valid for a year, and end: ca.pem, coordinator.pem and coordinator.key,
    /// worker.pem and worker.key for launchers and `octrain status`. The authority's key is kept nowhere.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["token_file", "tls_ca", "insecure"])]
    make_certs: Option<PathBuf>,
    /// A name or address by which workers reach the coordinator, besides localhost; for --make-certs, as often as there are names.
    #[arg(long, value_name = "HOST", requires = "make_certs")]
    name: Vec<String>,
    /// File in which the job's journal is kept: a coordinator that is started anew with it, at the same address, goes on with the job
    /// that runs, after a crash, SIGKILL or the loss of its host. SIGTERM, SIGINT and SIGHUP end the job for good all the same.
    /// Without it, the job ends with its coordinator.
    #[arg(long, value_name = "FILE", env = "OCTRAIN_JOURNAL_FILE")]
    journal_file: Option<PathBuf>,
    /// File to which a line of JSON is appended for whatever happens to the job (workers that come, are lost and leave, generations
    /// with what each took, the end with a report): docs/events.md has its keys.
    #[arg(long, value_name = "FILE", env = "OCTRAIN_EVENT_FILE")]
    event_file: Option<PathBuf>,
    /// Seconds that workers go on without a coordinator that keeps a journal; then they save and end [default: 600, or twice
    /// --heartbeat-timeout where that is longer].
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, requires = "journal_file")]
    coordinator_timeout: Option<f64>,
}

fn seconds(flag: &str, value: f64) -> Result<Duration> {
    let most = MAX_TIME.as_secs();
    Duration::try_from_secs_f64(value)
        .with_context(|| format!("--{flag} is {value}: give seconds, e.g. 5, and at most a year ({most})"))
}

fn config(args: Args) -> Result<CoordinatorConfig> {
    let tls = match (args.tls_ca, args.tls_cert, args.tls_key) {
        (Some(ca), Some(cert), Some(key)) => Some(TlsFiles { ca, cert, key }),
        _ => None,
    };
    let token = JobToken::find(args.token_file.as_deref())?;
    let access = Access { token, tls, insecure: args.insecure };
    let world_size = args.world_size.unwrap_or_default();
    let mut config = CoordinatorConfig {
        access,
        job_id: args.job_id,
        generation: args.generation,
        min_world: args.min_world.unwrap_or(world_size),
        max_world: args.max_world.unwrap_or(world_size),
        register_timeout: seconds("register-timeout", args.register_timeout)?,
        linger_for_late: seconds("linger-for-late", args.linger_for_late)?,
        journal_file: args.journal_file,
        event_file: args.event_file,
        ..CoordinatorConfig::new(args.listen, world_size)
    }
    .with_heartbeat_timeout(seconds("heartbeat-timeout", args.heartbeat_timeout)?);
    if let Some(timeout) = args.regroup_timeout {
        config.regroup_timeout = seconds("regroup-timeout", timeout)?;
    }
    if let Some(timeout) = args.coordinator_timeout {
        config.coordinator_timeout = seconds("coordinator-timeout", timeout)?;
    }
    config.validate()?;
    Ok(config)
}

/// Descriptors that a process may open are few by default; one is needed for each worker, and the hard limit is the
/// administrator's word.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("the limit of open files stays as it is: {e}");
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let output = match Standard::start(|_| {}) {
        Ok(output) => output,
        Err(e) => {
            let _ =
                writeln!(std::io::stderr(), "octrain-coordinator: cannot start the thread that writes: {e}");
            return ExitCode::from(EXIT_ERROR);
        }
    };
    let code = serve(&output).await;
    output.drain(Some(LAST_WORDS));
    ExitCode::from(code)
}

/// Says something on standard error.
fn say(output: &Standard, text: &str) {
    output.err.insist(format!("octrain-coordinator: {text}\n").as_bytes());
}

async fn serve(output: &Standard) -> u8 {
    let err = output.err.clone();
    let filter = tracing_subscriber::EnvFilter::try_from_env("OCTRAIN_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || err.clone())
        .with_ansi(false)
        // It would print to standard error what cannot be written to standard error, and panic.
        .log_internal_errors(false)
        .with_target(false)
        .init();
    let args = Args::parse();
    if let Some(folder) = &args.make_certs {
        return make_certificates(folder, &args.name, output);
    }
    let config = match config(args) {
        Ok(config) => config,
        Err(e) => {
            say(output, &format!("{e:#}"));
            return EXIT_CONFIGURATION;
        }
    };
    raise_file_limit();
    match run(config, output).await {
        Ok(code) => code,
        Err(e) => {
            say(output, &format!("{e:#}"));
            e.downcast_ref().map_or(EXIT_ERROR, ServeError::exit_code)
        }
    }
}

/// Makes the certificates of a job.
fn make_certificates(folder: &Path, names: &[String], output: &Standard) -> u8 {
    match certificates::make(folder, names, SystemTime::now()) {
        Ok(Made { coordinator, worker }) => {
            let flags = |TlsFiles { ca, cert, key }: &TlsFiles| {
                format!("--tls-ca {} --tls-cert {} --tls-key {}", ca.display(), cert.display(), key.display())
            };
            let (days, mine, theirs) = (VALID.as_secs() / 86_400, flags(&coordinator), flags(&worker));
            let text = format!(
                "made for one job, valid for {days} days; keep the keys to yourself\noctrain-coordinator {mine}\noctrain launch {theirs}\n"
            );
            output.out.insist(text.as_bytes());
            EXIT_OK
        }
        Err(e) => {
            say(output, &e.to_string());
            match e {
                MakeError::Other(_) => EXIT_ERROR,
                _ => EXIT_CONFIGURATION,
            }
        }
    }
}

/// Serves until the job has ended. The first signal ends the job, of which the workers are told; the second one, at least
/// [`ECHO`] later, ends this process.
async fn run(config: CoordinatorConfig, output: &Standard) -> Result<u8> {
    let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
    let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
    let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
    let mut hangup = listen(SignalKind::hangup(), "SIGHUP")?;
    let serving = server::start(config).await?;
    // The one line on standard output: for scripts that chose port 0.
    output.out.insist(format!("listening on {}\n", serving.address()).as_bytes());
    let mut stopped: Option<Instant> = None;
    let outcome = loop {
        let name = tokio::select! {
            outcome = serving.over() => break outcome,
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        };
        match stopped {
            // One request may arrive several times, as it may at a launcher.
            Some(at) if at.elapsed() < ECHO => {}
            Some(_) => return Ok(EXIT_INTERRUPTED),
            None => {
                stopped = Some(Instant::now());
                serving.stop(name);
            }
        }
    };
    match &outcome {
        Outcome::Failed { abort } => say(output, &abort.message),
        Outcome::Retired { why } => say(output, &why.to_string()),
        Outcome::Finished { .. } => {}
    }
    Ok(exit_code::of(&outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_regroup_is_what_was_said_and_else_leaves_room_for_silence() {
        let of = |flags: &[&str]| {
            let line = ["octrain-coordinator", "--world-size", "4", "--min-world", "2"];
            config(Args::parse_from(line.iter().chain(flags))).unwrap().regroup_timeout.as_secs_f64()
        };
        assert_eq!(of(&[]), 60.0);
        assert_eq!(of(&["--heartbeat-timeout", "45"]), 90.0);
        assert_eq!(of(&["--heartbeat-timeout", "45", "--regroup-timeout", "50"]), 50.0);
        assert_eq!(of(&["--regroup-timeout", "900"]), 900.0);
    }
}
