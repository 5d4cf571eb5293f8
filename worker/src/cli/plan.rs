//! `octrain plan`: what the coordinator would decide for this command on this machine, and why.

use super::Exit;
use super::args::RunFlags;
use crate::config::{MachineSettings, RunConfig};
use crate::metrics::print;
use crate::session::{JobSpec, machine};
use crate::trainer::Job;
use anyhow::Result;
use clap::ArgMatches;
use octrain_coordinator::config::DEFAULT_JOB;
use octrain_coordinator::plan::{self, Planned};
use octrain_coordinator::strategy::JobFacts;
use octrain_proto::v1::WorkerFacts;

/// Arguments of `octrain plan`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct PlanArgs {
    /// Settings.
    #[command(flatten)]
    pub flags: RunFlags,
}

/// The plan for `nproc` workers on this machine.
pub fn local_plan(here: &MachineSettings, job: JobSpec) -> Result<Planned> {
    let devices = machine::cuda_devices(here.device).map_err(Exit::of_gpus)?;
    let capabilities = machine::capabilities(devices);
    let workers = (0..here.nproc as u32).map(|local_index| WorkerFacts {
        host: machine::host_name(),
        local_index,
        local_world: here.nproc as u32,
        pid: std::process::id(),
        capabilities: Some(capabilities.clone()),
    });
    let min_world = here.min_world.unwrap_or(here.nproc) as u32;
    let facts = JobFacts { job, workers: workers.collect(), min_world };
    plan::build(DEFAULT_JOB, &facts).map_err(|e| Exit::configuration(e).into())
}

/// Runs the command.
pub fn main(args: &PlanArgs, matches: &ArgMatches) -> Result<u8> {
    let (config, _) = args.flags.resolve(&RunConfig::default(), matches)?;
    let job = Job::open(&config).map_err(Exit::of_run)?;
    let spec = job.spec(&config).map_err(Exit::configuration)?;
    job.found().for_each(|found| tracing::info!("{found}"));
    let Planned { plan, roster } = local_plan(&config.machine, spec)?;
    print(plan::render(&plan, &plan::generation(&plan, 1, roster, None)))?;
    Ok(0)
}
