//! What of a machine a run takes.

use octrain_core::strategy::{DeviceChoice, ReduceType, TestBackend};
use serde::{Deserialize, Serialize};

/// What of a machine a run takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(rename_all = "kebab-case")]
pub struct MachineSettings {
    /// Device.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Machine", value_enum, default_value_t))]
    pub device: DeviceChoice,
    /// Workers on this host.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", default_value_t = 1, allow_negative_numbers = true)
    )]
    pub nproc: usize,
    /// Fewest workers that the run goes on with when it loses some; without it, it ends with any of them. A step then has
    /// four microbatches a worker where `global-batch-size` does not say otherwise.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", value_name = "N", allow_negative_numbers = true)
    )]
    pub min_world: Option<usize>,
    /// Collectives for tests.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", value_enum, default_value_t, hide = true)
    )]
    pub test_backend: TestBackend,
    /// Compute threads per worker (0: cores / workers).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", default_value_t = 0, allow_negative_numbers = true)
    )]
    pub threads: usize,
    /// Gradient bucket size in MiB, in FP32.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Machine", default_value_t = 25.0, allow_hyphen_values = true)
    )]
    pub bucket_mib: f64,
    /// Type of gradients on their way between workers; before and after they are FP32.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Machine", value_enum, default_value_t))]
    pub reduce_dtype: ReduceType,
}

impl Default for MachineSettings {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            nproc: 1,
            min_world: None,
            test_backend: TestBackend::Auto,
            threads: 0,
            bucket_mib: 25.0,
            reduce_dtype: ReduceType::Fp32,
        }
    }
}
