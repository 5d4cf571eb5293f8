//! Build strategy: a pure function of what the job is and what the workers can do. Every decision carries its
//! reason; what cannot be met is an error that says what to change.

mod averaging;
mod batch;
mod device;
mod error;
mod int8;
mod precision;
mod qat;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use batch::Crew;
pub use device::Gpu;
pub(crate) use device::backend_name;
pub use error::StrategyError;
pub(crate) use precision::scaling_text;
pub use settings::JobSettings;

use crate::ranks::natural;
use octrain_core::graph::NetworkFacts;
use octrain_core::passes::{self, Decision};
use octrain_core::strategy::{Device, Purpose, ReduceType, Strategy};
use octrain_proto::v1::{
    Averaging, Backend, Determinism, Fp32Math, JobSpec, LossScaling, ModelFacts, Setting, WorkerFacts,
};
use std::collections::BTreeMap;

/// What strategy is decided from.
#[derive(Debug, Clone, PartialEq)]
pub struct JobFacts {
    /// What is to be done.
    pub job: JobSpec,
    /// Who is there; any order.
    pub workers: Vec<WorkerFacts>,
    /// Fewest workers that the job is told to go on with; as many as there are: it ends with any of them.
    pub min_world: u32,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildStrategy {
    /// What is trained, quantization scheduled.
    pub strategy: Strategy,
    /// What the graph is wanted for.
    pub purpose: Purpose,
    /// Fewest workers that the job goes on with; as many as there are where it ends with any of them.
    pub min_world: u32,
    /// How ranks communicate.
    pub backend: Backend,
    /// Where tensors live.
    pub device: Device,
    /// A GPU for every worker, in the order of ranks; empty on CPUs.
    pub gpus: Vec<Gpu>,
    /// What GPUs make of FP32 operands.
    pub fp32_math: Fp32Math,
    /// Loss scaling.
    pub loss_scaling: LossScaling,
    /// Passes in order, on or off.
    pub passes: Vec<Decision>,
    /// Every setting with its value and reason, for people.
    pub settings: Vec<Setting>,
    /// Gradient bucket in bytes.
    pub bucket_bytes: u64,
    /// Whether the forward of quantized layers is computed on INT8 codes in training.
    pub int8_forward: bool,
    /// Type of gradients between workers.
    pub reduce_type: ReduceType,
    /// M.
    pub microbatches: u64,
    /// b.
    pub microbatch_size: u64,
    /// Steps in all; 0: unknown.
    pub total_steps: u64,
    /// The average of the weights, if one is kept.
    pub averaging: Option<Averaging>,
    /// Determinism.
    pub determinism: Determinism,
    /// Compute threads per worker.
    pub threads: u32,
}

fn setting(name: &str, value: impl ToString, reason: impl Into<String>) -> Setting {
    Setting { name: name.into(), value: value.to_string(), reason: reason.into() }
}

/// Decides everything.
pub fn decide(facts: &JobFacts) -> Result<BuildStrategy, StrategyError> {
    let s = JobSettings::parse(&facts.job.config_json)?;
    let purpose = facts.job.purpose();
    let mut strategy = Strategy::from(&s.strategy);
    let network = network(facts.job.model.clone().unwrap_or_default());
    let world = facts.workers.len() as u64;
    if world == 0 {
        return Err(StrategyError::NoWorkers);
    }
    // In the order of ranks, so that no decision, and no worker a reason names, depends on the order of arrival.
    let mut workers = facts.workers.clone();
    workers.sort_by(|a, b| natural(&a.host, &b.host).then(a.local_index.cmp(&b.local_index)));
    let mut settings = Vec::new();

    let (device, reason, gpus) = device::choose(&s, &workers)?;
    settings.push(setting("device", device, reason));
    let (backend, reason) = device::backend(s.test_backend, device, world)?;
    settings.push(setting("backend", device::backend_name(backend), reason));

    let reason = precision::choose(&s, device, &workers)?;
    settings.push(setting("precision", strategy.amp.precision(), reason));
    let (fp32_math, reason) = precision::fp32_math(&s, device, &workers);
    settings.push(setting("fp32-math", precision::math_name(fp32_math), reason));
    let (loss_scaling, reason) = precision::loss_scaling(&s)?;
    settings.push(setting("loss-scale", precision::scaling_text(&loss_scaling), reason));

    settings.push(setting("data-layout", strategy.layout, "--data-layout"));

    let crew = Crew::of(&s, world, facts.min_world);
    let batch = batch::decide(&s, purpose, crew, facts.job.train_images, facts.job.kept_global_batch)?;
    settings.push(batch::going_on(crew, facts.min_world));
    let (averaging, averaged) = averaging::decide(&s, purpose, &batch);
    settings.extend(batch.settings);
    settings.push(averaged);
    let (bucket_bytes, reason) = buckets(&s, &network, backend)?;
    settings.push(setting("bucket-bytes", bucket_bytes, reason));
    let (reduce_type, reason) = reduce_type(&s, backend);
    settings.push(setting("reduce-dtype", reduce_type, reason));

    settings.extend(qat::settings(strategy.qat.as_ref(), &network, batch.total_steps)?);
    let (int8_forward, reason) = int8::choose(&s, purpose, device, &workers)?;
    settings.push(setting("int8-forward", if int8_forward { "on" } else { "off" }, reason));
    strategy.qat = strategy.qat.map(|q| q.scheduled(batch.total_steps));

    let (threads, reason) = threads(&s, &workers);
    settings.push(setting("threads", threads, reason));
    let (value, reason) = match s.deterministic {
        true => ("kernels", "--deterministic: only deterministic kernels; one without is an error"),
        false => {
            ("sampling", "order and augmentation depend on seed, epoch and sample only, not on the workers")
        }
    };
    settings.push(setting("determinism", format!("{value}, seed {}", s.seed), reason));

    Ok(BuildStrategy {
        passes: passes::decide(&strategy, &network, purpose),
        strategy,
        purpose,
        min_world: crew.min_world as u32,
        backend,
        device,
        gpus,
        fp32_math,
        loss_scaling,
        settings,
        bucket_bytes,
        reduce_type,
        int8_forward,
        microbatches: batch.microbatches,
        microbatch_size: batch.microbatch_size,
        total_steps: batch.total_steps,
        averaging,
        determinism: Determinism { seed: s.seed, deterministic_kernels: s.deterministic },
        threads,
    })
}

/// The network as workers describe it.
fn network(model: ModelFacts) -> NetworkFacts {
    let ModelFacts { name, parameters, layers, batch_norms } = model;
    NetworkFacts { name, parameters, layers, batch_norms }
}

fn buckets(
    s: &JobSettings,
    network: &NetworkFacts,
    backend: Backend,
) -> Result<(u64, String), StrategyError> {
    const MIB: f64 = (1u64 << 20) as f64;
    let want = "a size in MiB above 0 and at most 16384, e.g. 25";
    if !(s.bucket_mib > 0.0 && s.bucket_mib <= 16384.0) {
        return Err(StrategyError::Range { flag: "bucket-mib", value: s.bucket_mib, want });
    }
    let bytes = ((s.bucket_mib * MIB) as u64).max(4);
    let gradients = network.parameters * 4;
    let reason = match backend {
        Backend::Local => "one worker: gradients stay where they are".into(),
        _ => format!(
            "--bucket-mib {}: at most so much of the {:.1} MiB of gradients at once",
            s.bucket_mib,
            gradients as f64 / MIB
        ),
    };
    Ok((bytes, reason))
}

/// The type that gradients have between workers.
fn reduce_type(s: &JobSettings, backend: Backend) -> (ReduceType, &'static str) {
    match (backend, s.reduce_dtype) {
        (Backend::Local, _) => (ReduceType::Fp32, "one worker: gradients stay where they are"),
        (_, ReduceType::Fp32) => (ReduceType::Fp32, "--reduce-dtype fp32: gradients go as they are"),
        (_, ReduceType::Bf16) => (
            ReduceType::Bf16,
            "--reduce-dtype bf16: half the bytes, rounded at each sum; FP32 before and after, and in the last bucket",
        ),
    }
}

/// Cores of the host with the fewest per worker, shared out.
fn threads(s: &JobSettings, workers: &[WorkerFacts]) -> (u32, String) {
    if s.threads > 0 {
        return (s.threads, "--threads".into());
    }
    let mut of_host: BTreeMap<&str, u32> = BTreeMap::new();
    for w in workers {
        *of_host.entry(&w.host).or_default() += 1;
    }
    let share = |w: &WorkerFacts| {
        let here = of_host[w.host.as_str()];
        let cores = w.capabilities.as_ref().map_or(1, |c| c.cpu_cores.max(1));
        ((cores / here).max(1), cores, here)
    };
    let tightest = workers.iter().min_by_key(|w| share(w).0).expect("decide checked that there are workers");
    let (threads, cores, here) = share(tightest);
    (threads, format!("{cores} cores shared by {here} workers on {}", tightest.host))
}
