//! `octrain launch`: this host's workers of a job that a coordinator elsewhere holds together.

use super::args::RunFlags;
use super::credentials::CredentialFlags;
use super::resume::{self, Again, ResumeFlag};
use super::worker::{Place, Work};
use super::{Exit, in_vain, local};
use crate::config::RunConfig;
use crate::launcher::{EXIT_PREEMPTED, WorkerCommand};
use crate::session::{self, Credentials, DRAIN_TIMEOUT, GivingUp, machine};
use crate::trainer::Job;
use anyhow::Result;
use clap::parser::ValueSource;
use clap::{Args, Command, FromArgMatches};
use octrain_coordinator::config::DEFAULT_JOB;
use std::ffi::OsString;
use std::time::Duration;

/// Longest wait for the coordinator and for the other hosts, in seconds, where nothing is said.
const CONNECT_TIMEOUT: u64 = 60;
const PLAN_TIMEOUT: u64 = 3600;

/// Arguments of `octrain launch`.
#[derive(Debug, Clone, clap::Args)]
pub struct LaunchArgs {
    /// `HOST:PORT` of the coordinator.
    #[arg(long, value_name = "HOST:PORT", env = "OCTRAIN_COORDINATOR")]
    pub coordinator: String,
    /// Workers to start on this host, one per GPU.
    #[arg(long, value_name = "N")]
    pub nproc_per_node: u32,
    /// Name of the job.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_JOB, env = "OCTRAIN_JOB_ID")]
    pub job_id: String,
    /// Generation of the job; 0: whichever is current.
    #[arg(long, value_name = "N", default_value_t = 0, env = "OCTRAIN_GENERATION")]
    pub generation: u64,
    /// Longest wait for the coordinator to be reached, in seconds; names are resolved again and again meanwhile.
    #[arg(long, value_name = "SECONDS", default_value_t = CONNECT_TIMEOUT)]
    pub connect_timeout: u64,
    /// Longest wait, from there on, for the workers of the other hosts, in seconds; the coordinator's
    /// --register-timeout usually ends it earlier.
    #[arg(long, value_name = "SECONDS", default_value_t = PLAN_TIMEOUT)]
    pub plan_timeout: u64,
    /// Longest wait of workers that leave a job which goes on without them, as they or this launcher were sent SIGTERM, for a
    /// boundary between two steps, in seconds; then they leave as if they had died. Shorter than the time that the scheduler
    /// gives a process to end.
    #[arg(long, value_name = "SECONDS", default_value_t = DRAIN_TIMEOUT.as_secs())]
    pub drain_timeout: u64,
    /// Replacements.
    #[command(flatten)]
    pub restart: local::RestartFlag,
    /// What shows the coordinator that this launcher is of its job.
    #[command(flatten)]
    pub credentials: CredentialFlags,
    /// Flags of `octrain train`, the same on every host.
    #[arg(last = true, value_name = "TRAIN FLAGS")]
    pub flags: Vec<String>,
}

/// The command that joins another job for the same run; what is as it is by default is left out. The generation is that of
/// the job that has ended.
fn again(args: &LaunchArgs) -> String {
    let flag = |name: &str, value: &str, default: &str| match value == default {
        true => String::new(),
        false => format!(" --{name} {}", resume::quoted(value)),
    };
    let seconds = |name: &str, value: u64, default: u64| flag(name, &value.to_string(), &default.to_string());
    [
        format!(
            "octrain launch --coordinator {} --nproc-per-node {}",
            resume::quoted(&args.coordinator),
            args.nproc_per_node
        ),
        flag("job-id", &args.job_id, DEFAULT_JOB),
        seconds("connect-timeout", args.connect_timeout, CONNECT_TIMEOUT),
        seconds("plan-timeout", args.plan_timeout, PLAN_TIMEOUT),
        seconds("drain-timeout", args.drain_timeout, DRAIN_TIMEOUT.as_secs()),
        args.restart.again(),
        args.credentials.again(),
        " --".into(),
    ]
    .concat()
}

impl LaunchArgs {
    /// This launcher, as it tells the coordinator that it cannot be run.
    fn giving_up(&self, credentials: &Credentials) -> GivingUp {
        GivingUp {
            coordinator: self.coordinator.clone(),
            credentials: credentials.clone(),
            job_id: self.job_id.clone(),
            generation: self.generation,
            local_index: None,
            workers: self.nproc_per_node,
            patience: in_vain::PATIENCE.min(Duration::from_secs(self.connect_timeout)),
        }
    }

    /// The training flags, read.
    fn training(&self, again: &Again) -> Result<(RunFlags, RunConfig)> {
        let command = RunFlags::augment_args(Command::new("octrain launch --").no_binary_name(true));
        let command = ResumeFlag::augment_args(command);
        let matches =
            command.args_override_self(true).try_get_matches_from(&self.flags).map_err(|e| usage(&e))?;
        let flags = RunFlags::from_arg_matches(&matches).map_err(|e| usage(&e))?;
        let going_on = ResumeFlag::from_arg_matches(&matches).map_err(|e| usage(&e))?;
        if matches.value_source("nproc") == Some(ValueSource::CommandLine) {
            let message = "--nproc behind `--` says nothing to a launcher: the workers of this host are given by --nproc-per-node N, before `--`";
            return Err(Exit::configuration(message).into());
        }
        if matches.value_source("min_world") == Some(ValueSource::CommandLine) {
            let message = "--min-world behind `--` says nothing to a launcher: how few workers a job goes on with is given to its coordinator (octrain-coordinator --min-world N)";
            return Err(Exit::configuration(message).into());
        }
        let config = resume::resolve(&flags, &going_on, &matches, again)?;
        if self.nproc_per_node == 0 {
            return Err(Exit::configuration("--nproc-per-node is 0; at least one worker is needed").into());
        }
        // Whatever is wrong with network or data is said once, here, and not by every worker.
        Job::open(&config).map_err(Exit::of_run)?;
        Ok((flags, config))
    }
}

/// A usage error as one of the configuration; help that was asked for is shown, and is all.
fn usage(e: &clap::Error) -> Exit {
    if !e.use_stderr() {
        e.exit();
    }
    Exit::configuration(e.render().to_string().trim_end().to_string())
}

/// The command line of a launcher could not be read: tells the coordinator, where at least that one is named.
pub fn misspelt(line: impl Iterator<Item = OsString>, e: &clap::Error) {
    let mut line = line.peekable();
    if line.next_if(|word| word == "launch").is_none() {
        return;
    }
    let command = LaunchArgs::augment_args(Command::new("launch").no_binary_name(true)).ignore_errors(true);
    let Ok(matches) = command.try_get_matches_from(line) else { return };
    let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
    let Some(coordinator) = text("coordinator") else { return };
    // Without them nobody there would listen.
    let Ok(credentials) = CredentialFlags::from_arg_matches(&matches).map(|flags| flags.read()) else {
        return;
    };
    let Ok(credentials) = credentials else { return };
    let who = GivingUp {
        coordinator,
        credentials,
        job_id: text("job_id").unwrap_or_else(|| DEFAULT_JOB.into()),
        generation: matches.try_get_one("generation").ok().flatten().copied().unwrap_or_default(),
        local_index: None,
        workers: 0,
        patience: in_vain::PATIENCE,
    };
    in_vain::tell(&who, &in_vain::brief(&e.render().to_string()));
}

/// Runs the command.
pub fn main(args: &LaunchArgs) -> Result<u8> {
    let again = Again { command: again(args), needs: ", on every host and with a coordinator started anew" };
    let credentials = args.credentials.read()?;
    let (flags, config) =
        args.training(&again).map_err(|e| in_vain::told(&args.giving_up(&credentials), e))?;
    flags.show(&config)?;
    let host = machine::host_name();
    let commands = (0..args.nproc_per_node).map(|local_index| {
        let place = Place {
            coordinator: args.coordinator.clone(),
            job_id: args.job_id.clone(),
            generation: args.generation,
            local_index,
            local_world: args.nproc_per_node,
            connect_timeout: args.connect_timeout,
            plan_timeout: args.plan_timeout,
            drain_timeout: args.drain_timeout,
            credentials: credentials.clone(),
        };
        let command = local::worker_command(&config, &place, &Work::Run, false)?;
        // Ranks are the coordinator's to give; here only the place is known.
        let label = format!("host {host} local {local_index}");
        Ok((place, WorkerCommand { label, ..command }))
    });
    let survival = match local::needs_all(&config, &Work::Run) {
        true => local::Survival::Known(false),
        false => local::Survival::Asked,
    };
    let ended = local::supervise(commands.collect::<Result<_>>()?, survival, args.restart.restarts());
    // What is told of going on is for a job that has stopped.
    let code = match &ended {
        Ok(code) => Some(*code),
        Err(e) => e.downcast_ref::<Exit>().map(|exit| exit.code),
    };
    let goes_on = || session::goes_on_without(&args.coordinator, &credentials).unwrap_or_default();
    if code == Some(EXIT_PREEMPTED) && survival == local::Survival::Asked && goes_on() {
        tracing::info!("the job goes on without the workers of this launcher");
        return ended;
    }
    resume::with_continuation(ended, &config, &again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: LaunchArgs,
    }

    #[test]
    fn the_command_that_goes_on_has_all_that_was_said_to_the_launcher() {
        let again = |flags: &[&str]| {
            let line =
                [&["launch", "--coordinator", "node-0:29400", "--nproc-per-node", "8"], flags].concat();
            again(&Line::parse_from(line).args)
        };
        let short = "octrain launch --coordinator node-0:29400 --nproc-per-node 8 --";
        assert_eq!(again(&["--generation", "3", "--", "--qat"]), short);
        let told = again(&[
            "--job-id",
            "my run",
            "--connect-timeout",
            "86400",
            "--plan-timeout",
            "7200",
            "--max-restarts",
            "0",
            "--token-file",
            "a token",
        ]);
        let long = short.replace(
            " --nproc-per-node 8 --",
            " --nproc-per-node 8 --job-id 'my run' --connect-timeout 86400 --plan-timeout 7200 --max-restarts 0 --token-file 'a token' --",
        );
        assert_eq!(told, long);
    }
}
