//! Whether the CUDA libraries load, and whether a GPU does what the CPU does: for `scripts/gpu-check.sh`, and for the
//! test that loads the CUDA set on a machine without a GPU.

mod group;
mod kernels;
mod pair;

pub use pair::{Rank, rank, two_ranks};

use crate::collective::load_nccl;
use crate::native;
use tch::Device;

/// One thing that was looked at: what was found, or what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What was found, or what is wrong.
    pub outcome: Result<String, String>,
}

fn check(name: &'static str, outcome: Result<String, String>) -> Check {
    Check { name, outcome }
}

/// Loads libtorch's CUDA part and NCCL as a run does. This needs no GPU; it changes the process for good.
pub fn libraries() -> Vec<Check> {
    let deps = native::libraries::deps_dir();
    let loaded = match native::load_cuda() {
        Ok(true) => Ok(format!("loaded from {}", deps.join("libtorch-cuda").display())),
        Ok(false) => Err(format!("not in {}; run scripts/setup.sh --cuda", deps.display())),
        Err(e) => Err(e.to_string()),
    };
    let guard = match native::has_cuda_guard() {
        true => Ok("libtorch knows CUDA devices".into()),
        false => Err("libtorch's CUDA part has not registered itself".into()),
    };
    let nccl = load_nccl();
    let version = match &nccl {
        Ok(library) => Ok(format!("{} from {}", library.version(), library.file().display())),
        Err(e) => Err(e.to_string()),
    };
    let identifier = match nccl {
        Ok(library) => library.try_identifier().map(|()| "made".into()),
        Err(_) => Err("there is no NCCL to make it".into()),
    };
    vec![
        check("libtorch_cuda", loaded),
        check("device guard", guard),
        check("NCCL", version),
        check("NCCL identifier", identifier),
    ]
}

/// How many GPUs libtorch can use, once its CUDA part is loaded.
pub fn gpus() -> usize {
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
}

/// Tries the first GPU.
pub fn gpu() -> Vec<Check> {
    let driver = match native::devices::versions() {
        Some(old) if old.too_old() => Err(old.to_string()),
        Some(fine) => Ok(fine.to_string()),
        None => Err("there is no libcuda.so.1".into()),
    };
    let driver = check("driver", driver);
    if !tch::Cuda::is_available() {
        return vec![driver, check("GPU", Err("libtorch finds none it can use".into()))];
    }
    let mut checks = vec![driver];
    checks.extend(kernels::against_the_cpu(Device::Cuda(0)));
    checks.extend(group::one_rank());
    checks
}
