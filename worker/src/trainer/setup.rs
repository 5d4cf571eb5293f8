//! From a plan to a run: device, collective, optimizer, weights, loader.

use super::job::Job;
use super::{Outcome, TrainError, resume};
use crate::checkpoint::Position;
use crate::collective::{Collective, CollectiveError, Gloo, Local, Nccl};
use crate::config::{Amp, DataLayout, Observer, RunConfig, RunScope, Target};
use crate::data::{DataConfig, Geometry, Sharding, TrainLoader};
use crate::exec::initialise;
use crate::metrics::{Reporter, median};
use crate::optim::loss_scale::LossScale;
use crate::optim::qat::QatSchedule;
use crate::optim::schedule::Schedule;
use crate::optim::{CrossEntropy, Distillation, DistributedOptimizer, Program, Sgd, Strategy};
use crate::passes;
use crate::session::{Backend, BuildPlan, Device as PlanDevice, LossScalingMode, MemoryLayout, Precision};
use crate::session::{QuantObserver, QuantTarget, Session};
use crate::{native, session};
use std::time::Duration;
use tch::Device;

/// Longest wait of a collective; the coordinator's liveness ends a job long before.
const COLLECTIVE: Duration = Duration::from_secs(600);

/// A run that is set up.
pub struct Run<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) session: &'a Session,
    pub(super) job: &'a Job,
    pub(super) program: Program,
    pub(super) loader: Option<TrainLoader>,
    pub(super) reporter: Reporter,
    pub(super) position: Position,
    pub(super) data: DataConfig,
    times: Vec<f64>,
    begun: u64,
}

/// Steps without a time at the start of a process, outside benchmarks: memory is still being allocated.
const COLD: u64 = 2;

fn device(plan: &BuildPlan) -> Device {
    match plan.device() {
        PlanDevice::Cpu => Device::Cpu,
        PlanDevice::Cuda => Device::Cuda(plan.local_rank as usize),
    }
}

/// Connects the ranks as the plan says. `address` is this host's, as others reach it.
fn collective(session: &Session, address: &str) -> Result<Box<dyn Collective>, CollectiveError> {
    let (plan, abort) = (session.plan(), session.abort());
    let (rank, world) = (plan.rank as usize, plan.world_size as usize);
    let collective: Box<dyn Collective> = match plan.backend() {
        Backend::Local => Box::new(Local),
        Backend::Gloo => Box::new(Gloo::connect(session.store(), rank, world, address, COLLECTIVE, abort)?),
        Backend::Nccl => {
            let store = session.store();
            Box::new(Nccl::connect(&*store, rank, world, plan.local_rank as usize, COLLECTIVE, abort)?)
        }
    };
    Ok(collective)
}

/// The optimizer's strategy: the plan's decisions in the worker's types.
pub fn strategy(plan: &BuildPlan) -> Strategy {
    let recipe = plan.qat.as_ref();
    let scaling = plan.loss_scaling.unwrap_or_default();
    Strategy {
        passes: plan
            .passes
            .iter()
            .map(|p| passes::Decision { name: p.name.clone(), on: p.on, reason: p.reason.clone() })
            .collect(),
        settings: passes::Settings {
            target: match recipe.map(session::QatRecipe::target) {
                Some(QuantTarget::Onnxruntime) => Target::Onnxruntime,
                Some(QuantTarget::Tensorrt) => Target::Tensorrt,
                Some(QuantTarget::Openvino) | None => Target::Openvino,
            },
            skip: recipe.map_or_else(Vec::new, |r| r.skip.clone()),
            weight_bits: recipe.map_or(8, |r| r.weight_bits),
            amp: match plan.precision() {
                Precision::Fp32 => Amp::Off,
                Precision::Bf16 => Amp::Bf16,
                Precision::Fp16 => Amp::Fp16,
            },
            layout: match plan.memory_layout() {
                MemoryLayout::Nhwc => DataLayout::Nhwc,
                MemoryLayout::Nchw => DataLayout::Nchw,
            },
        },
        microbatches: plan.microbatches as usize,
        bucket_bytes: plan.bucket_bytes as usize,
        loss_scale: match scaling.mode() {
            LossScalingMode::Off => LossScale::Off,
            LossScalingMode::Static => LossScale::Static(scaling.scale),
            LossScalingMode::Dynamic => LossScale::Dynamic { scale: scaling.scale, good: 0 },
        },
        qat: recipe.map(|r| QatSchedule {
            calibration_images: r.calibration_images as usize,
            observer: match r.observer() {
                QuantObserver::MovingAverage => Observer::MovingAverage,
                QuantObserver::Max => Observer::Max,
                QuantObserver::Percentile => Observer::Percentile,
                QuantObserver::Mse => Observer::Mse,
                QuantObserver::Entropy => Observer::Entropy,
            },
            percentile: r.percentile,
            learn_scales: r.learn_scales,
            observer_momentum: r.observer_momentum,
            freeze_observers_step: r.freeze_observers_step.unwrap_or(u64::MAX),
            freeze_bn_step: r.freeze_bn_step.unwrap_or(u64::MAX),
        }),
        distillation: recipe
            .and_then(|r| r.distillation)
            .map(|d| Distillation { weight: d.weight, temperature: d.temperature }),
        pass_through: recipe.is_some_and(|r| r.pass_through),
        device: device(plan),
    }
}

fn schedule(config: &RunConfig, plan: &BuildPlan, steps_per_epoch: u64) -> Schedule {
    Schedule {
        kind: config.lr_scheduler,
        lr: config.lr,
        warmup_start_lr: config.warmup_start_lr,
        warmup_steps: (config.warmup_epochs * steps_per_epoch as f64).round() as u64,
        total_steps: plan.total_steps,
    }
}

/// What loaders of this rank need to know.
fn data_config(config: &RunConfig, plan: &BuildPlan) -> DataConfig {
    let local = plan.roster.iter().filter(|p| p.host == plan.host).count().max(1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    DataConfig {
        geometry: Geometry::new(config),
        sharding: Sharding {
            rank: plan.rank as usize,
            world: plan.world_size as usize,
            microbatches: plan.microbatches as usize,
            batch: plan.microbatch_size as usize,
        },
        seed: config.seed,
        threads: if config.data_threads > 0 { config.data_threads } else { (cores / local).max(1) },
        max_corrupt: config.max_corrupt_images,
    }
}

impl<'a> Run<'a> {
    /// Sets everything up as the session's plan says; `address` is this host's, as the other ranks reach it.
    pub fn new(
        config: &'a RunConfig,
        session: &'a Session,
        job: &'a Job,
        address: &str,
    ) -> Result<Self, TrainError> {
        let plan = session.plan();
        tch::set_num_threads(plan.threads.max(1) as i32);
        if plan.determinism.is_some_and(|d| d.deterministic_kernels) {
            native::deterministic(true).map_err(|e| TrainError::Config(e.to_string()))?;
        }
        let data = data_config(config, plan);
        let loader = job.train.clone().map(|d| TrainLoader::new(d, data.clone())).transpose()?;
        let steps_per_epoch = loader.as_ref().map_or(0, TrainLoader::steps);

        let rule = Sgd {
            momentum: config.momentum,
            nesterov: config.nesterov,
            weight_decay: config.weight_decay,
            decay_all: config.bn_weight_decay,
        };
        let loss = CrossEntropy { label_smoothing: config.label_smoothing };
        let schedule = schedule(config, plan, steps_per_epoch);
        let collective = collective(session, address)?;
        let optimizer = DistributedOptimizer::new(rule, schedule, strategy(plan), collective);
        let dump = config.checks && plan.rank == 0;
        if dump {
            println!("graph as built:\n{}", job.graph);
        }
        let mut program = optimizer.minimize(job.graph.clone(), loss, |pass, graph| {
            if dump {
                println!("graph after {} ({}):\n{graph}", pass.name, pass.what);
            }
        })?;
        initialise(&mut program.weights, config.seed, config.zero_gamma)?;
        let start = resume::start(config, job, &mut program, steps_per_epoch, data.sharding.global_batch())?;
        program.global_step = start.position.global_step;
        let reporter =
            Reporter::new(plan.rank, config.report_file.as_deref(), start.resumed, config.print_interval)?;
        let begun = start.position.global_step;
        let mut run = Self {
            config,
            session,
            job,
            program,
            loader,
            reporter,
            position: start.position,
            data,
            times: vec![],
            begun,
        };
        run.reporter.say(&start.message);
        if config.qat && config.run_scope != RunScope::EvalOnly {
            run.calibrate()?;
        }
        if config.qat_distill && config.run_scope != RunScope::EvalOnly {
            run.learn_from_teacher()?;
        }
        run.program.ensure_equal_ranks()?;
        Ok(run)
    }

    /// Optimizer steps of an epoch.
    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.loader.as_ref().map_or(0, TrainLoader::steps)
    }

    pub(super) fn timed(&mut self, step: Duration) {
        let done = self.position.global_step - self.begun;
        let cold = if self.config.benchmark { self.config.benchmark_warmup_steps } else { COLD };
        if done > cold {
            self.times.push(step.as_secs_f64());
        }
    }

    pub(super) fn timed_steps(&self) -> u64 {
        self.times.len() as u64
    }

    pub(super) fn outcome(&self, eval: Option<super::EvalResult>, interrupted: bool) -> Outcome {
        let step = median(&self.times);
        let images = self.data.sharding.global_batch() as f64;
        let images_per_second = if step > 0.0 { images / step } else { 0.0 };
        Outcome { position: self.position, eval, interrupted, images_per_second }
    }
}
