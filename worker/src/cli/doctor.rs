//! `octrain doctor`: do the CUDA libraries load, and does a GPU do what the CPU does.

use crate::doctor::{self, Check};
use crate::launcher::{EXIT_ERROR, EXIT_OK};
use crate::metrics::say;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `octrain doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// Also try the first GPU: kernels against the CPU, NCCL on one rank.
    #[arg(long)]
    pub gpu: bool,
    /// Also try two NCCL ranks, as two processes: on two GPUs where there are two, else on one (NCCL 2.30 or newer).
    #[arg(long)]
    pub two_ranks: bool,
    /// Be one of these two.
    #[arg(long, hide = true, requires = "meeting")]
    pub rank: Option<usize>,
    /// The folder in which the two meet.
    #[arg(long, hide = true)]
    pub meeting: Option<PathBuf>,
    /// The GPU of this one.
    #[arg(long, hide = true)]
    pub on_gpu: Option<usize>,
}

/// What is to be looked at.
fn checks(args: &DoctorArgs) -> Vec<Check> {
    if let (Some(rank), Some(meeting)) = (args.rank, args.meeting.clone()) {
        return vec![doctor::rank(&doctor::Rank { rank, meeting, gpu: args.on_gpu })];
    }
    let mut checks = doctor::libraries();
    if args.gpu {
        checks.extend(doctor::gpu());
    }
    if args.two_ranks {
        checks.push(doctor::two_ranks(doctor::gpus()));
    }
    checks
}

/// Runs the command: a line for each check.
pub fn main(args: &DoctorArgs) -> Result<u8> {
    let checks = checks(args);
    for Check { name, outcome } in &checks {
        match outcome {
            Ok(found) => say!("ok      {name}: {found}"),
            Err(why) => say!("FAILED  {name}: {why}"),
        }
    }
    Ok(if checks.iter().all(|c| c.outcome.is_ok()) { EXIT_OK } else { EXIT_ERROR })
}
