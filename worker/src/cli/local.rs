//! A job on this host alone: the coordinator embedded, the workers as processes of this binary (or, for one, this
//! very process).

use super::Exit;
use super::credentials::tls_arguments;
use super::resume::quoted;
use super::shared_token::SharedToken;
use super::worker::{self, Place, Work};
use crate::config::RunConfig;
use crate::launcher::{
    self, Answer, EXIT_CONFIGURATION, Ended, LaunchOptions, Replace, Restarts, Told, Vacancy, WORKER_TOKEN,
    WorkerCommand,
    signals::{self, Stage},
};
use crate::session::{self, Credentials, DRAIN_TIMEOUT, Exited, JOB_TOKEN, network};
use crate::trainer::Job;
use anyhow::{Context, Result};
use octrain_coordinator::config::{Access, CoordinatorConfig, MAX_TIME};
use octrain_coordinator::ranks::Place as Expected;
use octrain_coordinator::server::{self, ServeError};
use octrain_coordinator::token::draw;
use octrain_core::strategy::{DeviceChoice, TestBackend};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// The command of one worker.
pub fn worker_command(
    config: &RunConfig,
    place: &Place,
    work: &Work,
    passthrough: bool,
) -> Result<WorkerCommand> {
    let json = serde_json::to_string(config)?;
    let flags = [
        ("--coordinator", place.coordinator.clone()),
        ("--job-id", place.job_id.clone()),
        ("--generation", place.generation.to_string()),
        ("--local-index", place.local_index.to_string()),
        ("--local-world", place.local_world.to_string()),
        ("--connect-timeout", place.connect_timeout.to_string()),
        ("--plan-timeout", place.plan_timeout.to_string()),
        ("--drain-timeout", place.drain_timeout.to_string()),
        ("--run-config", json),
    ];
    let mut args: Vec<OsString> = vec!["worker".into()];
    args.extend(flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]));
    if let Some(tls) = &place.credentials.tls {
        args.extend(
            tls_arguments(tls.files()).into_iter().flat_map(|(flag, path)| [flag.into(), path.into()]),
        );
    }
    if let Work::AllReduce(wanted) = work {
        args.extend(["--all-reduce".into(), serde_json::to_string(wanted)?.into()]);
    }
    // Thread pools of native libraries are made before the plan is known.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (cores / place.local_world.max(1) as usize).max(1).to_string();
    let mut env: Vec<(OsString, OsString)> = vec![("OMP_NUM_THREADS".into(), threads.into())];
    // Not an argument: those are shown to every user of the machine.
    env.extend(place.credentials.token.iter().map(|token| (JOB_TOKEN.into(), token.secret().into())));
    if config.machine.device != DeviceChoice::Cpu || config.machine.test_backend == TestBackend::Nccl {
        let nccl = network::nccl_environment(&place.coordinator);
        if place.local_index == 0 {
            nccl.said.iter().for_each(|line| tracing::warn!("{line}"));
        }
        env.extend(nccl.set.into_iter().map(|(name, value)| (name.into(), value.into())));
    }
    Ok(WorkerCommand { label: format!("rank {}", place.local_index), args, env, passthrough })
}

/// Restarts of a launcher's workers at a time, where nothing is said.
const MAX_RESTARTS: u32 = 3;

/// How often workers are replaced.
#[derive(Debug, Clone, clap::Args)]
pub struct RestartFlag {
    /// Workers of this launcher that are started anew in the place of dead ones, while the job goes on without those (its
    /// coordinator has a minimum); each counts until the job is 1000 steps further. 0: none is.
    #[arg(long, value_name = "N", default_value_t = MAX_RESTARTS)]
    pub max_restarts: u32,
}

impl RestartFlag {
    /// None spent.
    pub fn restarts(&self) -> Restarts {
        Restarts::new(self.max_restarts)
    }

    /// As it is given again, with a blank in front; nothing where it is as by default.
    pub fn again(&self) -> String {
        match self.max_restarts {
            MAX_RESTARTS => String::new(),
            n => format!(" --max-restarts {n}"),
        }
    }
}

/// What a job on this host says besides its log.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct EventFlag {
    /// File to which the coordinator that this command starts appends a line of JSON for whatever happens to the job: workers that
    /// come, are lost and leave, generations with what each took, the end with a report.
    #[arg(long, value_name = "FILE")]
    pub event_file: Option<PathBuf>,
}

impl EventFlag {
    /// As it is given again, with a blank in front; nothing where there is none.
    pub fn again(&self) -> String {
        let flag = |path: &PathBuf| format!(" --event-file {}", quoted(&path.display().to_string()));
        self.event_file.as_ref().map_or_else(String::new, flag)
    }
}

/// The coordinator of a job on this host.
#[derive(Debug, Clone)]
pub struct Own<'a> {
    /// Where it listens.
    pub listen: &'a str,
    /// Whom it tells what happens.
    pub events: EventFlag,
}

impl Default for Own<'_> {
    /// At a port of the system's choice, with a log and nothing else.
    fn default() -> Self {
        Self { listen: ANY_PORT, events: EventFlag::default() }
    }
}

/// Where it listens if nothing is said.
pub const ANY_PORT: &str = "127.0.0.1:0";

/// How a launcher knows whether its job goes on without some of its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// It does, or it does not: this process is the coordinator.
    Known(bool),
    /// The coordinator says.
    Asked,
}

/// Between questions whether the job goes on, until the coordinator is there to answer one.
const ASK: Duration = Duration::from_secs(1);

/// How long a launcher asks a coordinator that does not answer, where that keeps no journal, in a job that goes on.
const STANDS_STILL: Duration = Duration::from_secs(10);

/// Becomes true once it is known that the job goes on without some of its workers; with that, `absence` becomes how many milliseconds
/// it goes on without its coordinator.
fn survives(survival: Survival, place: Option<&Place>, absence: &Arc<AtomicU64>) -> Arc<AtomicBool> {
    let known = Arc::new(AtomicBool::new(survival == Survival::Known(true)));
    let (Survival::Asked, Some(place)) = (survival, place) else { return known };
    let (waiting, place) = (Arc::downgrade(&known), place.clone());
    let absence = Arc::clone(absence);
    let ask = move || {
        let course = session::course(&place.coordinator, &place.credentials).ok().flatten()?;
        absence.store(course.absence.map_or(0, |t| t.as_millis() as u64), Ordering::SeqCst);
        Some(course.survives)
    };
    let asking = std::thread::Builder::new().name("survives".into());
    if let Err(e) = asking.spawn(move || until_answered(&waiting, ask, ASK)) {
        tracing::warn!(
            "the coordinator is not asked whether the job goes on without some workers: no thread ({e})"
        );
    }
    known
}

/// Asks until there is an answer, which counts for good, or until the workers have ended, after which nobody wants to know.
fn until_answered(waiting: &Weak<AtomicBool>, ask: impl Fn() -> Option<bool>, pause: Duration) {
    while let Some(known) = waiting.upgrade() {
        if let Some(survives) = ask() {
            return known.store(survives, Ordering::SeqCst);
        }
        drop(known);
        std::thread::sleep(pause);
    }
}

/// A worker of this launcher.
#[derive(Clone)]
struct Supervised {
    place: Place,
    command: WorkerCommand,
    /// What its process, or the one that has taken its place, has registered with.
    token: String,
}

/// The workers of a launcher, as they are now.
type Known = Arc<Mutex<Vec<Supervised>>>;

/// One of them, as it is now.
fn known(all: &Known, index: usize) -> Option<Supervised> {
    all.lock().unwrap_or_else(PoisonError::into_inner).get(index).cloned()
}

/// The command of another process for the place of one that has died, with a token of its own.
fn another(all: &Known, index: usize) -> std::io::Result<WorkerCommand> {
    let token = draw()?;
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = all.get_mut(index).ok_or(std::io::ErrorKind::NotFound)?;
    worker.token = token.clone();
    let mut command = worker.command.clone();
    command.env.push((WORKER_TOKEN.into(), token.into()));
    Ok(command)
}

/// From the end of the wait of workers that leave until they are killed.
const DRAINED: Duration = Duration::from_secs(40);

/// Starts the workers of these places and waits for their end; returns the exit code, having told the root cause. In a job
/// that goes on without some of them, the coordinator is told at once of each that dies, with the token that was drawn for
/// it, and says whether the job goes on; then another one is started for it, as far as `restarts` go.
pub fn supervise(workers: Vec<(Place, WorkerCommand)>, survival: Survival, restarts: Restarts) -> Result<u8> {
    let interrupt = signals::enter(Stage::Supervising)?;
    let absence: Arc<AtomicU64> = Arc::default();
    let drain_timeout = workers.first().map_or(0, |(place, _)| place.drain_timeout);
    let drain_timeout = Duration::from_secs(drain_timeout.min(MAX_TIME.as_secs()));
    let survives = survives(survival, workers.first().map(|(place, _)| place), &absence);
    let tells = survival != Survival::Known(false);
    let none = |(place, command)| Supervised { place, command, token: String::new() };
    let all: Known = Arc::new(Mutex::new(workers.into_iter().map(none).collect()));
    let indices = 0..all.lock().unwrap_or_else(PoisonError::into_inner).len();
    let command = |index| match tells {
        true => another(&all, index).context("cannot draw a worker's token from /dev/urandom"),
        false => known(&all, index).map(|w| w.command).context("there is no such worker"),
    };
    let commands = indices.map(command).collect::<Result<Vec<_>>>()?;
    let replacing = Arc::clone(&all);
    let replace: Option<Replace> =
        tells.then(|| Arc::new(move |index: usize| another(&replacing, index)) as Replace);
    let going_on = Arc::clone(&survives);
    let ended = move |ended: &Ended| {
        let Supervised { place, token, .. } = known(&all, ended.index)?;
        let who = Exited {
            coordinator: place.coordinator.clone(),
            credentials: place.credentials.clone(),
            job_id: place.job_id.clone(),
            generation: place.generation,
            local_index: place.local_index,
            pid: ended.pid,
            status: ended.end.to_string(),
            token,
        };
        // A coordinator that stands still for a moment is asked again, as workers bear it.
        let moment = going_on.load(Ordering::SeqCst).then_some(STANDS_STILL);
        let absence = Some(Duration::from_millis(absence.load(Ordering::SeqCst))).filter(|t| !t.is_zero());
        let absence = absence.or(moment);
        let told = session::exited(&who, absence);
        let unheard = |e| tracing::debug!("the coordinator was not told that a worker {}: {e}", ended.end);
        let (goes_on, vacancy) = told.map_err(unheard).ok()?;
        // Where that is not known, no restart is given back.
        let furthest = || session::furthest(&place.coordinator, &place.credentials).unwrap_or_default();
        let step = if goes_on { furthest() } else { 0 };
        let vacancy = match vacancy {
            session::Vacancy::None => Vacancy::None,
            session::Vacancy::Waits => Vacancy::Waits,
            session::Vacancy::Recalled => Vacancy::Recalled,
        };
        Some(Answer { goes_on, step, vacancy })
    };
    let ended: Option<Told> = tells.then(|| Arc::new(ended) as Told);
    // The launcher that holds the coordinator is the job: what it is asked to do, all are.
    let whole = survival != Survival::Asked;
    let options =
        LaunchOptions { ended, replace, restarts, survives, whole, ..LaunchOptions::new(commands)? };
    let stop_grace = options.stop_grace.max(drain_timeout + DRAINED);
    let options = LaunchOptions { stop_grace, ..options };
    let report = launcher::spawn(options)?.wait(&interrupt);
    if let Some(message) = report.message() {
        return Err(Exit { code: report.code, message }.into());
    }
    Ok(report.code)
}

/// Whether a job ends with any of its workers, whatever is said: what is timed or checked is so on all of them.
pub fn needs_all(config: &RunConfig, work: &Work) -> bool {
    config.run.benchmark || *work != Work::Run
}

/// Fewest workers that a job on this host goes on with.
fn min_world(config: &RunConfig, work: &Work) -> u32 {
    let all = config.machine.nproc;
    // Of a benchmark the coordinator says why it does not obey.
    config.machine.min_world.filter(|_| *work == Work::Run).unwrap_or(all) as u32
}

/// Runs the job, with a coordinator of its `own`. Workers that die while it goes on are replaced as far as `restarts` go.
pub fn run(config: &RunConfig, own: &Own, restarts: Restarts) -> Result<u8> {
    // Whatever is wrong with network or data is said once, here, and not by every worker.
    run_opened(config, own, Job::open(config).map_err(Exit::of_run)?, &Work::Run, restarts)
}

/// Runs a job whose network and data were looked at before.
pub fn run_opened(config: &RunConfig, own: &Own, job: Job, work: &Work, restarts: Restarts) -> Result<u8> {
    let world = config.machine.nproc as u32;
    let host = crate::session::machine::host_name();
    let min_world = min_world(config, work);
    let survives = min_world < world && !needs_all(config, work);
    let shared = SharedToken::of_job()?;
    let serve = CoordinatorConfig {
        access: Access { token: Some(shared.token.clone()), ..Access::default() },
        expected: (0..world).map(|local_index| Expected { host: host.clone(), local_index }).collect(),
        event_file: own.events.event_file.clone(),
        ..CoordinatorConfig::new(own.listen, world).with_min_world(min_world)
    };
    let coordinator = server::serve(serve).map_err(|e| match e {
        ServeError::Runtime(_) => anyhow::Error::from(e),
        _ => Exit { code: EXIT_CONFIGURATION, message: e.to_string() }.into(),
    })?;
    let address = coordinator.address();
    tracing::info!("the coordinator listens on {address}: octrain status {address}{}", shared.flag());
    let place = |local_index| Place {
        coordinator: coordinator.address().to_string(),
        job_id: octrain_coordinator::config::DEFAULT_JOB.into(),
        generation: 1,
        local_index,
        local_world: world,
        connect_timeout: 60,
        plan_timeout: 3600,
        drain_timeout: DRAIN_TIMEOUT.as_secs(),
        credentials: Credentials { token: Some(shared.token.clone()), tls: None },
    };
    let code = if world == 1 {
        worker::run(config, &place(0), job, work)?
    } else {
        drop(job);
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let commands = (0..world).map(|i| {
            let command = worker_command(config, &place(i), work, i == 0 && terminal && !config.run.checks)?;
            Ok((place(i), command))
        });
        supervise(commands.collect::<Result<_>>()?, Survival::Known(survives), restarts)?
    };
    coordinator.shutdown("the workers have ended");
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_coordinator_that_has_answered_is_not_asked_again_and_one_that_is_not_there_is() {
        for survives in [true, false] {
            let (known, asked) = (Arc::new(AtomicBool::new(false)), Cell::new(0));
            let ask = || {
                asked.set(asked.get() + 1);
                (asked.get() == 3).then_some(survives)
            };
            until_answered(&Arc::downgrade(&known), ask, Duration::ZERO);
            assert_eq!((asked.get(), known.load(Ordering::SeqCst)), (3, survives));
        }
        // Nor is anyone once the workers have ended.
        until_answered(&Weak::new(), || panic!("nobody wants to know"), Duration::ZERO);
    }
}
