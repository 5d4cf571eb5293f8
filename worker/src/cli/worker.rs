//! `octrain worker`: one rank.

use super::credentials::{CredentialFlags, TlsFlags};
use super::{Exit, advice, in_vain};
use crate::config::RunConfig;
use crate::launcher::{
    EXIT_ABORTED, EXIT_CONFIGURATION, EXIT_ERROR, EXIT_OK, EXIT_PREEMPTED, WORKER_TOKEN, logging,
    signals::{self, Stage},
    watchdog::{self, Limits},
};
use crate::metrics::say;
use crate::native;
use crate::session::{
    Conclusion, Credentials, FailureKind, GivingUp, JobSpec, Session, SessionError, SessionOptions, machine,
    panics,
};
use crate::trainer::{self, AllReduce, Job, TrainError};
use anyhow::{Context, Result};
use octrain_coordinator::plan;
use std::sync::Arc;
use std::time::Duration;

/// Which worker of which job this is.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// `HOST:PORT` of the coordinator.
    #[arg(long)]
    pub coordinator: String,
    /// Name of the job.
    #[arg(long)]
    pub job_id: String,
    /// Generation this worker was started for; 0: whichever is current.
    #[arg(long)]
    pub generation: u64,
    /// Index among the workers of this host.
    #[arg(long)]
    pub local_index: u32,
    /// Workers of this host.
    #[arg(long)]
    pub local_world: u32,
    /// Longest wait for the coordinator, in seconds.
    #[arg(long)]
    pub connect_timeout: u64,
    /// Longest wait for the plan once the coordinator is reached, in seconds.
    #[arg(long)]
    pub plan_timeout: u64,
    /// Longest wait for a boundary between two steps, of a worker that leaves a job which goes on, in seconds.
    #[arg(long)]
    pub drain_timeout: u64,
    /// What shows the coordinator that this worker is of its job.
    #[arg(skip)]
    pub credentials: Credentials,
}

/// Arguments of `octrain worker`.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Which worker.
    #[command(flatten)]
    pub place: Place,
    /// The resolved configuration as JSON.
    #[arg(long)]
    pub run_config: String,
    /// Certificates.
    #[command(flatten)]
    pub tls: TlsFlags,
    /// Time sums over the workers in place of training: what, as JSON.
    #[arg(long)]
    pub all_reduce: Option<String>,
}

/// What a worker does once it has its place among the others.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// It trains or evaluates, as configured.
    Run,
    /// It sums up, and is timed.
    AllReduce(AllReduce),
}

/// Runs the command.
pub fn main(args: &WorkerArgs) -> Result<u8> {
    // The launcher has put the job's token into the environment.
    let credentials = CredentialFlags { token_file: None, tls: args.tls.clone() }.read()?;
    let place = Place { credentials, ..args.place.clone() };
    let (config, job, work) = open(args).map_err(|e| in_vain::told(&place.giving_up(), e))?;
    run(&config, &place, job, &work)
}

fn open(args: &WorkerArgs) -> Result<(RunConfig, Job, Work)> {
    let other = |flag: &str, e: serde_json::Error| {
        Exit::configuration(format!("{flag} is not a configuration of this version: {e}"))
    };
    let config: RunConfig = serde_json::from_str(&args.run_config).map_err(|e| other("--run-config", e))?;
    let work = match &args.all_reduce {
        None => Work::Run,
        Some(text) => Work::AllReduce(serde_json::from_str(text).map_err(|e| other("--all-reduce", e))?),
    };
    let job = Job::open(&config).map_err(Exit::of_run)?;
    Ok((config, job, work))
}

impl Work {
    /// Does it; whether it ended by a signal.
    fn done(
        &self,
        config: &RunConfig,
        session: &Session,
        job: &Job,
        address: &str,
    ) -> Result<bool, TrainError> {
        match self {
            Work::Run => Ok(trainer::run(config, session, job, address)?.interrupted),
            Work::AllReduce(wanted) => {
                trainer::time_all_reduce(wanted, session, address, config.run.report_file.as_deref())?;
                Ok(false)
            }
        }
    }
}

impl Place {
    /// This worker, as it tells the coordinator that it cannot be run.
    fn giving_up(&self) -> GivingUp {
        GivingUp {
            coordinator: self.coordinator.clone(),
            credentials: self.credentials.clone(),
            job_id: self.job_id.clone(),
            generation: self.generation,
            local_index: Some(self.local_index),
            workers: 1,
            patience: in_vain::PATIENCE.min(Duration::from_secs(self.connect_timeout)),
        }
    }

    /// What a session at this place is opened with.
    fn options(&self, config: &RunConfig, job: &Job) -> Result<SessionOptions> {
        let devices = machine::cuda_devices(config.machine.device).map_err(Exit::of_gpus)?;
        let spec = job.spec(config).map_err(Exit::configuration)?;
        let spec = JobSpec { kept_global_batch: trainer::kept_global_batch(config, job), ..spec };
        Ok(SessionOptions {
            credentials: self.credentials.clone(),
            job_id: self.job_id.clone(),
            generation: self.generation,
            local_index: self.local_index,
            local_world: self.local_world,
            token: std::env::var(WORKER_TOKEN).unwrap_or_default(),
            connect_timeout: Duration::from_secs(self.connect_timeout),
            plan_timeout: Duration::from_secs(self.plan_timeout),
            interrupted: Arc::new(signals::requested),
            leaving: Arc::new(signals::requested_alone),
            drain_timeout: Duration::from_secs(self.drain_timeout),
            ..SessionOptions::new(&self.coordinator, spec, machine::capabilities(devices))
        })
    }
}

fn exit_code(e: &SessionError) -> u8 {
    match e {
        SessionError::Interrupted(_) => EXIT_PREEMPTED,
        e if e.is_configuration() => EXIT_CONFIGURATION,
        e if e.is_peers() => EXIT_ABORTED,
        _ => EXIT_ERROR,
    }
}

/// Runs one worker to its end; returns its exit code.
pub fn run(config: &RunConfig, place: &Place, job: Job, work: &Work) -> Result<u8> {
    signals::enter(Stage::Working).context("cannot listen for signals")?;
    native::keep_freed();
    let options = place.options(config, &job).map_err(|e| in_vain::told(&place.giving_up(), e))?;
    let session =
        Session::connect(options).map_err(|e| Exit { code: exit_code(&e), message: e.to_string() })?;
    let address = match begin(&session, &place.coordinator) {
        Ok(address) => address,
        Err(e) => return Err(concluded(session, &format!("{e:#}"), FailureKind::Own)),
    };
    let (shared, generation) = (session.plan(), session.generation());
    if !generation.joins() {
        logging::identify(generation.rank(), generation.number());
        tracing::info!(
            world_size = generation.world_size(),
            plan = %&plan::hash_text(shared)[..12],
            "joined; the plan with its reasons: octrain plan"
        );
    }
    if config.run.checks && generation.rank() == 0 && !generation.joins() {
        say!("{}", plan::render(shared, generation.formed()));
    }
    let ended = panics::guarded(&session, || work.done(config, &session, &job, &address));
    let (message, kind) = match ended {
        Ok(Ok(true)) => {
            session.leave_interrupted();
            return Ok(EXIT_PREEMPTED);
        }
        Ok(Ok(false)) => {
            session.leave();
            return Ok(EXIT_OK);
        }
        Ok(Err(e @ (TrainError::Stopped(_) | TrainError::NotWanted))) => {
            session.leave_interrupted();
            return Err(Exit { code: EXIT_PREEMPTED, message: e.to_string() }.into());
        }
        Ok(Err(e)) => (advice::told(&e), e.kind()),
        Err(panicked) => (panicked.to_string(), FailureKind::Own),
    };
    Err(concluded(session, &message, kind))
}

/// Watches over this process from now on, and finds the address at which the other workers reach it.
fn begin(session: &Session, coordinator: &str) -> Result<String> {
    let abort = session.abort().clone();
    watchdog::watch(move |at_most| abort.wait(at_most), Limits::WORKER)
        .context("cannot start the watchdog")?;
    machine::address_towards(coordinator)
        .with_context(|| format!("cannot find this host's address towards {coordinator}"))
}

/// How this worker ends after an error, once the coordinator knows of it.
fn concluded(session: Session, message: &str, kind: FailureKind) -> anyhow::Error {
    let Conclusion { code, message } = session.conclude(message, kind);
    Exit { code, message }.into()
}
