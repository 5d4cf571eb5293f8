//! Strategies that cannot be met. None is downgraded; each says what to change.

use crate::ranks::Place;
use octrain_core::strategy::QatError;

/// Why a job cannot be run as configured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StrategyError {
    /// The configuration cannot be read.
    #[error(
        "the configuration the workers sent cannot be read: {0}; use the same octrain version everywhere"
    )]
    Config(String),
    /// Nobody.
    #[error("there are no workers to plan for")]
    NoWorkers,
    /// CUDA asked for and absent.
    #[error(
        "--device cuda, but {place} is worker {} of its host and sees {devices} CUDA devices: start at most as many workers per host as it has GPUs, check CUDA_VISIBLE_DEVICES and the driver, or say --device cpu", local_rank + 1
    )]
    Cuda {
        /// The worker.
        place: Place,
        /// Its rank within the host.
        local_rank: u32,
        /// Devices it sees.
        devices: usize,
    },
    /// Some workers have CUDA, some not.
    #[error(
        "--device auto, but the workers differ: {with} can use a CUDA device, {without} cannot (it is worker {} of its host, which shows {devices}): say --device cpu, or start as many workers per host as it has GPUs", local_rank + 1
    )]
    MixedDevices {
        /// A worker with CUDA.
        with: Place,
        /// One without.
        without: Place,
        /// Rank of the latter within its host.
        local_rank: u32,
        /// Devices it sees.
        devices: usize,
    },
    /// Gloo cannot reach a GPU's memory.
    #[error("--test-backend gloo works on CPUs only: say --device cpu, or --test-backend nccl")]
    GlooOnGpus,
    /// Two workers on one GPU.
    #[error(
        "{first} and {second} would share the GPU {uuid}: start at most as many workers per host as it has GPUs, give each worker a GPU of its own (CUDA_VISIBLE_DEVICES, --gpus-per-task=1), or say --device cpu"
    )]
    SharedDevice {
        /// A worker.
        first: Place,
        /// Another of its host.
        second: Place,
        /// The GPU.
        uuid: String,
    },
    /// GPU too old for BF16.
    #[error(
        "--amp bf16, but {device} of {place} has compute capability {major}.{minor} and BF16 needs 8.0: say --amp fp16 --use-dynamic-loss-scaling, or --amp off"
    )]
    Bf16 {
        /// The worker.
        place: Place,
        /// Name of its GPU.
        device: String,
        /// Compute capability.
        major: u32,
        /// Compute capability.
        minor: u32,
    },
    /// A forward on codes that cannot be.
    #[error("--qat-int8-forward is set, but {why}; or leave it out")]
    Int8Forward {
        /// Why, and what to do.
        why: String,
    },
    /// A batch of nothing.
    #[error("--batch-size is 0: every microbatch needs at least one image")]
    EmptyBatch,
    /// Global batch is not a whole number of microbatches.
    #[error(
        "--global-batch-size {global} is not a whole multiple of --batch-size {batch} (remainder {}), for {world} workers: choose for example --global-batch-size {}", global % batch, suggestion(*global, *batch, *world)
    )]
    Divide {
        /// Global batch.
        global: u64,
        /// Microbatch.
        batch: u64,
        /// Workers.
        world: u64,
    },
    /// The global batch of the run that is gone on with does not fit these workers.
    #[error(
        "the run has {global} images in a step so far, which {world} workers with --batch-size {batch} cannot share: {}--global-batch-size {} changes it", keeping(*global, *batch, *world), suggestion(*global, *batch, *world)
    )]
    Kept {
        /// Global batch.
        global: u64,
        /// Microbatch.
        batch: u64,
        /// Workers.
        world: u64,
    },
    /// Fewer microbatches than workers.
    #[error(
        "--global-batch-size {global} with --batch-size {batch} makes {microbatches} microbatches, fewer than the {world} workers: lower --batch-size to at most {}, raise --global-batch-size to at least {}, or use fewer workers", (global / world).max(1), batch * world
    )]
    TooFewMicrobatches {
        /// Global batch.
        global: u64,
        /// Microbatch.
        batch: u64,
        /// M.
        microbatches: u64,
        /// Workers.
        world: u64,
    },
    /// Not one step fits.
    #[error(
        "a global batch is {global} images but there are only {images} training images, so not one step fits: {fits}"
    )]
    NoStep {
        /// Global batch.
        global: u64,
        /// Training images.
        images: u64,
        /// What would fit.
        fits: String,
    },
    /// Number out of range.
    #[error("--{flag} is {value}: {want}")]
    Range {
        /// Name of the flag.
        flag: &'static str,
        /// What it was.
        value: f64,
        /// What it must be.
        want: &'static str,
    },
    /// A recipe that cannot be trained.
    #[error("{}", .0.told(|field| format!("--qat-{field}")))]
    Qat(#[from] QatError),
    /// QAT of a network without anything to quantize.
    #[error("--qat, but {model} has no layer with weights to quantize: train it without --qat")]
    NothingToQuantize {
        /// Name of the network.
        model: String,
    },
}

/// The nearest global batch that works.
fn suggestion(global: u64, batch: u64, world: u64) -> u64 {
    ((global + batch / 2) / batch).max(world) * batch
}

/// What keeps a global batch, for the start of a list.
fn keeping(global: u64, batch: u64, world: u64) -> String {
    let fits = |b: &u64| global.is_multiple_of(*b) && global / b >= world;
    // Not for ever: the numbers are a worker's.
    let smaller = (1..=batch.min(global)).rev().take(4096).find(fits);
    let batch = smaller.map_or_else(String::new, |b| format!("--batch-size {b} keeps it, "));
    format!("{batch}fewer workers (--nproc, --nproc-per-node) may, ")
}
