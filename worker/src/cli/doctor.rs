//! `octrain doctor`: do the CUDA libraries load, and does a GPU do what the CPU does.

use crate::doctor::{self, Check};
use crate::launcher::{EXIT_ERROR, EXIT_OK};
use crate::metrics::say;
use anyhow::Result;

/// Arguments of `octrain doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// Also try the first GPU: kernels against the CPU, NCCL on one rank.
    #[arg(long)]
    pub gpu: bool,
    /// Also try two NCCL ranks on the first GPU (NCCL 2.30 or newer, with NCCL_MULTI_RANK_GPU_ENABLE=1).
    #[arg(long, requires = "gpu")]
    pub two_ranks: bool,
}

/// Runs the command: a line for each check.
pub fn main(args: &DoctorArgs) -> Result<u8> {
    let mut checks = doctor::libraries();
    if args.gpu {
        checks.extend(doctor::gpu(args.two_ranks));
    }
    for Check { name, outcome } in &checks {
        match outcome {
            Ok(found) => say!("ok      {name}: {found}"),
            Err(why) => say!("FAILED  {name}: {why}"),
        }
    }
    Ok(if checks.iter().all(|c| c.outcome.is_ok()) { EXIT_OK } else { EXIT_ERROR })
}
