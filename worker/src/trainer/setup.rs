//! From a plan to a run: device, collective, optimizer, weights, loader.

use super::best::Best;
use super::group::{collective, device, sharing};
use super::job::Job;
use super::overlap::{OVERLAP, overlap};
use super::patience::{PATIENCE, patience};
use super::progress::Progress;
use super::remainder::remainder;
use super::task::{Task, data_config};
use super::trace::Tracing;
use super::update::{rule, schedule};
use super::{EvalResult, Outcome, TrainError, begin, join, resume};
use crate::checkpoint::{Estate, OwnedFolder, RunIdentity, StartedFrom};
use crate::collective::{Calls, Local};
use crate::config::{RunConfig, RunScope};
use crate::data::{TrainLoader, Uploading};
use crate::graph::NetworkFacts;
use crate::metrics::{Reporter, StepMetrics, median, say};
use crate::native;
use crate::native::devices;
use crate::optim::loss_scale::LossScale;
use crate::optim::{CrossEntropy, DistributedOptimizer, OptimError, Program};
use crate::passes::{self, Decision};
use crate::session::{BuildPlan, Fp32Math, LossScalingMode, Session};
use crate::strategy::{Averaging, Strategy};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where its checkpoints go, and what they say of it.
pub(super) struct Output {
    /// Only on the rank that writes.
    pub folder: Option<OwnedFolder>,
    /// Whose checkpoints are written, on every rank.
    pub run: Option<RunIdentity>,
    /// What becomes of the checkpoints that are there, on every rank.
    pub estate: Estate,
    /// What its training began with; none where that is not known.
    pub started_from: Option<StartedFrom>,
    /// The best evaluation so far.
    pub best: Best,
}

/// A run that is set up.
pub struct Run<'a> {
    pub(super) task: Task<'a>,
    pub(super) program: Program,
    pub(super) loader: Option<TrainLoader>,
    /// Optimizer steps of an epoch, in every generation.
    pub(super) steps_per_epoch: u64,
    /// Microbatches of the step that comes next, on their way to the device.
    pub(super) ahead: Option<Result<Vec<Uploading>, TrainError>>,
    pub(super) progress: Progress,
    /// The last evaluation.
    pub(super) eval: Option<EvalResult>,
    pub(super) output: Output,
    pub(super) reporter: Reporter,
    pub(super) tracing: Option<Tracing>,
    /// Seconds of the steps that count.
    times: Vec<f64>,
    /// The same steps whole, of a benchmark.
    pub(super) timed: Vec<StepMetrics>,
    /// What is to be said before the first step, until it is: where it begins, and about the warm-up.
    beginning: Option<(String, Option<String>)>,
    /// This host's address, as the other ranks reach it.
    pub(super) address: &'a str,
    /// Longest wait of a collective.
    pub(super) patience: Duration,
    /// The generation it has joined.
    pub(super) generation: u64,
    /// When it left the last one, and why, until it has joined another.
    pub(super) left: Option<(Instant, String)>,
    /// What it stands at is the run's, and not yet to be taken from others who run.
    pub(super) has_state: bool,
}

/// Steps without a time at the start of a process, outside benchmarks: memory is still being allocated.
const COLD: u64 = 2;

/// What is trained, as the plan says. A plan whose passes are not those that follow from its recipe here is an error.
fn strategy(plan: &BuildPlan, network: &NetworkFacts) -> Result<Strategy, TrainError> {
    let other = |what: String| {
        TrainError::Config(format!(
            "{what}: coordinator and worker are of different versions; use the same octrain everywhere"
        ))
    };
    let qat = plan.qat.as_ref().map(octrain_proto::qat).transpose().map_err(|e| other(e.to_string()))?;
    let strategy = Strategy { amp: plan.amp(), layout: plan.layout(), qat };
    let derived = passes::decide(&strategy, network, plan.purpose());
    let planned = |i: usize| plan.passes.get(i).map(|p| (p.pass, p.on));
    let differs = derived.iter().enumerate().find(|&(i, d)| planned(i) != Some((d.pass as i32, d.on)));
    if let Some((_, Decision { pass, on, reason })) = differs {
        let follows = if *on { "follows" } else { "does not follow" };
        let what = format!("the plan contradicts itself: `{pass}` {follows} from its strategy ({reason})");
        return Err(other(format!("{what}, and its list of passes says otherwise")));
    }
    if plan.passes.len() > derived.len() {
        return Err(other("the plan lists more passes than there are here".into()));
    }
    Ok(strategy)
}

/// How the loss is scaled at the start.
fn loss_scale(plan: &BuildPlan) -> LossScale {
    let scaling = plan.loss_scaling.unwrap_or_default();
    match scaling.mode() {
        LossScalingMode::Off => LossScale::Off,
        LossScalingMode::Static => LossScale::Static(scaling.scale),
        LossScalingMode::Dynamic => LossScale::Dynamic { scale: scaling.scale, good: 0 },
    }
}

/// How the weights are averaged besides, in a training with so many steps of warm-up.
fn averaging(plan: &BuildPlan, warmup: u64) -> Option<Averaging> {
    plan.averaging.map(|a| Averaging { decay: a.decay, every: a.every, warmup })
}

/// The seed that was decided.
pub(super) fn seed(plan: &BuildPlan) -> u64 {
    plan.determinism.map_or(0, |d| d.seed)
}

impl<'a> Run<'a> {
    /// Sets everything up as the session's plan says; `address` is this host's, as the other ranks reach it. A worker that comes to a
    /// running job has its state from the others, once it meets them.
    pub fn new(
        config: &'a RunConfig,
        session: &'a Session,
        job: &'a Job,
        address: &'a str,
    ) -> Result<Self, TrainError> {
        let (plan, generation) = (session.plan(), session.generation());
        let patience = patience(std::env::var(PATIENCE).ok().as_deref())?;
        let overlap = overlap(std::env::var(OVERLAP).ok().as_deref())?;
        // Before anything is allocated: this is the one thread that calls CUDA besides libtorch's own.
        let config_error = |e: native::NativeError| TrainError::Config(e.to_string());
        devices::make_current(device(&generation)).map_err(config_error)?;
        devices::allow_tf32(plan.fp32_math() == Fp32Math::Tf32).map_err(config_error)?;
        tch::set_num_threads(plan.threads.max(1) as i32);
        let deterministic = plan.determinism.is_some_and(|d| d.deterministic_kernels);
        if deterministic {
            native::deterministic(true).map_err(config_error)?;
        }
        // cuDNN tries its ways to compute each convolution, and keeps the fastest.
        tch::Cuda::cudnn_set_benchmark(!deterministic);
        let strategy = strategy(plan, &NetworkFacts::of(&job.graph))?;
        let data = data_config(&config.data, config.model.image_shape[0], plan, &generation);
        let ranks = (data.sharding.rank, data.sharding.world);
        let task = Task { config, session, job, data };
        let loader = task.loader()?;
        let steps_per_epoch = loader.as_ref().map_or(0, TrainLoader::steps);
        let rule = rule(&config.optimizer);
        let loss = CrossEntropy { label_smoothing: config.optimizer.label_smoothing };
        let (schedule, warmup) = schedule(&config.optimizer, plan.total_steps, steps_per_epoch);
        let averaging = averaging(plan, schedule.warmup_steps);
        let copies = 1 + rule.buffers().len() + usize::from(averaging.is_some());
        let joins = join::comes_to_others(&generation);
        let begin = match joins {
            true => begin::Begin::default(),
            false => begin::agree(config, session, job, copies)?,
        };
        let calls = config.run.trace_file.as_ref().map(|_| Calls::default());
        let collective = match joins {
            true => Box::new(Local),
            false => collective(session, address, patience, calls.clone())?,
        };
        let optimizer = DistributedOptimizer::new(rule, strategy, collective)
            .schedule(schedule)
            .sharing(sharing(plan))
            .overlap(overlap)
            .int8_forward(plan.int8_forward)
            .loss_scale(loss_scale(plan))
            .clip_norm(config.optimizer.clip_grad_norm)
            .averaging(averaging)
            .device(device(&generation))
            .purpose(plan.purpose())
            .seed(seed(plan))
            .zero_gamma(config.model.zero_gamma);
        let dump = config.run.checks && generation.rank() == 0 && !joins;
        if dump {
            say!("graph as built:\n{}", job.graph);
        }
        let mut program = optimizer.minimize_watched(job.graph.clone(), loss, |pass, graph| {
            if dump {
                say!("graph after {} ({}):\n{graph}", pass.name(), pass.what());
            }
        })?;
        let (source, batch) = (begin.source.as_deref(), task.data.sharding.global_batch());
        let start = match joins {
            true => resume::Start::of_others(),
            false => resume::start(config, job, source, &mut program, steps_per_epoch, batch)?,
        };
        program.global_step = start.position.global_step;
        let (file, every) = (config.run.report_file.as_deref(), config.run.print_interval);
        let reporter = match joins {
            true => Reporter::silent(every),
            false => Reporter::new(generation.rank(), file, start.resumed, every)?,
        };
        let ranks = if joins { (usize::MAX, ranks.1) } else { ranks };
        let begin_trace = |(path, calls): (&PathBuf, Calls)| Tracing::begin(path, calls, ranks);
        Ok(Self {
            tracing: config.run.trace_file.as_ref().zip(calls).map(begin_trace).transpose()?,
            progress: Progress::at(&start),
            output: Output {
                folder: begin.folder,
                run: begin.run,
                estate: begin.estate,
                started_from: start.from,
                best: Best::so_far(begin.best),
            },
            task,
            eval: None,
            program,
            loader,
            steps_per_epoch,
            ahead: None,
            reporter,
            times: vec![],
            timed: vec![],
            beginning: (!joins).then_some((start.message, warmup)),
            address,
            patience,
            // None, where it has yet to meet the others.
            generation: if joins { 0 } else { generation.number() },
            left: None,
            has_state: !joins,
        })
    }

    /// Says where it begins, and does what needs all ranks before the first step.
    pub(super) fn prepare(&mut self) -> Result<(), TrainError> {
        let (config, job) = (self.task.config, self.task.job);
        let layers = self.program.int8_layers(self.task.session.plan().microbatch_size as usize);
        if let Some((0, others)) = &layers {
            let why = others.first().map_or(String::new(), |(name, why)| format!("; of `{name}`, {why}"));
            return Err(OptimError::Int8Forward { why: format!("no layer of the network does{why}") }.into());
        }
        if let Some((beginning, warmup)) = self.beginning.take() {
            self.reporter.say(&beginning);
            self.say_whose();
            layers.iter().for_each(|layers| self.reporter.say(&on_codes(layers)));
            job.found().for_each(|found| self.reporter.say(&found.to_string()));
            if let Some(train) = job.train.as_ref().filter(|_| config.run.epochs > 0) {
                let told = [remainder(train.len(), self.task.data.sharding.global_batch()), warmup];
                told.into_iter().flatten().for_each(|line| self.reporter.say(&line));
            }
        }
        if config.run.run_scope != RunScope::EvalOnly {
            self.calibrate()?;
        }
        if config.run.run_scope != RunScope::EvalOnly && self.needs_teacher() {
            self.learn_from_teacher()?;
        }
        self.program.ensure_equal_ranks()?;
        Ok(())
    }

    /// Which run writes where, and what it will remove.
    fn say_whose(&mut self) {
        let Some(folder) = &self.output.folder else { return };
        let mut text = format!("{} writes {}", folder.run(), self.task.config.run.output_dir.display());
        let superseded = folder.superseded();
        if !superseded.is_empty() {
            text.push_str(&format!(
                "; once its first checkpoint is complete, it overwrites {}",
                superseded.join(", ")
            ));
        }
        for aside in folder.set_aside() {
            text.push_str(&format!("; set aside {aside}"));
        }
        self.reporter.say(&text);
    }

    /// Takes note of a step, where it counts.
    pub(super) fn timed(&mut self, step: &StepMetrics) {
        let done = self.progress.position.global_step - self.progress.begun;
        let cold =
            if self.task.config.run.benchmark { self.task.config.run.benchmark_warmup_steps } else { COLD };
        if done > cold {
            self.times.push(step.step_time);
            if self.task.config.run.benchmark {
                self.timed.push(*step);
            }
        }
    }

    pub(super) fn timed_steps(&self) -> u64 {
        self.times.len() as u64
    }

    pub(super) fn outcome(&self, interrupted: bool) -> Outcome {
        let step = median(&self.times);
        let images = self.task.data.sharding.global_batch() as f64;
        let images_per_second = if step > 0.0 { images / step } else { 0.0 };
        Outcome { position: self.progress.position, eval: self.eval, interrupted, images_per_second }
    }
}

/// Which layers compute on INT8 codes, and why others do not.
fn on_codes((count, others): &(usize, Vec<(String, String)>)) -> String {
    let mut reasons: Vec<(&str, Vec<&str>)> = vec![];
    for (name, why) in others {
        match reasons.iter_mut().find(|(reason, _)| reason == why) {
            Some((_, names)) => names.push(name),
            None => reasons.push((why, vec![name])),
        }
    }
    let others: String = reasons
        .iter()
        .map(|(why, names)| match names[..] {
            [name] => format!("; not {name}: {why}"),
            [name, other] => format!("; not {name} and {other}: {why}"),
            _ => format!("; not {} and {} others: {why}", names[0], names.len() - 1),
        })
        .collect();
    format!("the forward of {count} layers is computed on INT8 codes{others}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        Determinism, Generation, LossScaling, Placement, QatRecipe, WorkerFacts, job_spec, machine,
    };
    use crate::strategy::{Amp, Layout, Observer, ReduceType, Target};
    use crate::trainer::purpose;
    use octrain_coordinator::{plan, strategy::JobFacts};
    use tch::Device;

    fn config() -> RunConfig {
        RunConfig::default().with(|c| {
            c.quantization.qat = true;
            c.quantization.qat_distill = true;
            c.data.batch_size = 4;
            c.optimizer.model_ema = true;
            c.run.max_steps = 1000;
        })
    }

    fn network() -> NetworkFacts {
        NetworkFacts { layers: 1, ..NetworkFacts::default() }
    }

    /// The plan of a run of two workers.
    fn planned(config: &RunConfig) -> BuildPlan {
        let model = crate::trainer::model_facts(&network());
        let job =
            job_spec(&serde_json::to_value(config).unwrap(), purpose(config.run.run_scope), model, 10_000);
        let worker = |local_index| WorkerFacts {
            host: "a".into(),
            local_index,
            local_world: 2,
            pid: 1,
            capabilities: Some(machine::capabilities(vec![])),
        };
        let facts = JobFacts { job, workers: vec![worker(0), worker(1)], min_world: 2 };
        plan::build("job", &facts).unwrap().plan
    }

    /// The first rank of a generation of two workers.
    fn generation() -> Generation {
        let place = |rank| Placement { rank, host: "a".into(), local_index: rank, ..Placement::default() };
        Generation::new(octrain_proto::v1::Generation {
            number: 1,
            roster: vec![place(0), place(1)],
            ..octrain_proto::v1::Generation::default()
        })
    }

    /// What the worker makes of a plan.
    fn made(plan: &BuildPlan) -> String {
        let config = config();
        let strategy = strategy(plan, &network()).map_err(|e| e.to_string());
        let step = (sharing(plan), loss_scale(plan), averaging(plan, 3), plan.int8_forward);
        format!(
            "{:?}",
            (
                strategy,
                step,
                data_config(&config.data, 3, plan, &generation()),
                schedule(&config.optimizer, plan.total_steps, 100)
            )
        )
    }

    #[test]
    fn layers_are_said_by_why_they_do_not_compute_on_codes() {
        let layer = |name: &str, why: &str| (name.to_string(), why.to_string());
        let others = vec![layer("a", "it has groups"), layer("fc", "few rows"), layer("b", "it has groups")];
        assert_eq!(
            on_codes(&(5, others)),
            "the forward of 5 layers is computed on INT8 codes; not a and b: it has groups; not fc: few rows"
        );
        assert_eq!(on_codes(&(5, vec![])), "the forward of 5 layers is computed on INT8 codes");
    }

    fn qat(p: &mut BuildPlan) -> &mut QatRecipe {
        p.qat.as_mut().unwrap()
    }

    fn scaling(p: &mut BuildPlan) -> &mut LossScaling {
        p.loss_scaling.as_mut().unwrap()
    }

    #[test]
    fn every_decision_of_the_plan_reaches_the_worker() {
        type Change = fn(&mut BuildPlan);
        let changes: [(&str, Change); 30] = [
            ("amp", |p| p.set_amp(Amp::Bf16)),
            ("loss_scaling.mode", |p| scaling(p).set_mode(LossScalingMode::Dynamic)),
            ("loss_scaling.scale", |p| {
                scaling(p).set_mode(LossScalingMode::Static);
                scaling(p).scale = 7.0;
            }),
            ("int8_forward", |p| p.int8_forward = true),
            ("layout", |p| p.set_layout(Layout::Nchw)),
            ("passes", |p| p.passes[0].on = !p.passes[0].on),
            ("bucket_bytes", |p| p.bucket_bytes += 4),
            ("reduce_type", |p| p.set_reduce_type(ReduceType::Bf16)),
            ("microbatches", |p| p.microbatches += 1),
            ("averaging.decay", |p| p.averaging.as_mut().unwrap().decay = 0.5),
            ("averaging.every", |p| p.averaging.as_mut().unwrap().every += 1),
            ("microbatch_size", |p| p.microbatch_size += 1),
            ("total_steps", |p| p.total_steps += 10),
            ("determinism.seed", |p| p.determinism = Some(Determinism { seed: 7, ..p.determinism.unwrap() })),
            ("qat", |p| p.qat = None),
            ("qat.target", |p| qat(p).set_target(Target::Tensorrt)),
            ("qat.calibration_images", |p| qat(p).calibration_images += 1),
            ("qat.freeze_observers_step", |p| qat(p).freeze_observers_step = None),
            ("qat.freeze_bn_step", |p| qat(p).freeze_bn_step = Some(3)),
            ("qat.observer_momentum", |p| qat(p).observer_momentum = 0.5),
            ("qat.unclipped_straight_through", |p| qat(p).unclipped_straight_through = true),
            ("qat.skip", |p| qat(p).skip.push("fc".into())),
            ("qat.observer", |p| qat(p).set_observer(Observer::Mse)),
            ("qat.percentile", |p| qat(p).percentile = 90.0),
            ("qat.weight_bits", |p| qat(p).weight_bits = 7),
            ("qat.reduce_range", |p| qat(p).reduce_range = true),
            ("qat.learn_scales", |p| qat(p).learn_scales = true),
            ("qat.bn_images", |p| qat(p).bn_images = 64),
            ("qat.distillation.weight", |p| qat(p).distillation.as_mut().unwrap().weight = 0.75),
            ("qat.distillation.temperature", |p| qat(p).distillation.as_mut().unwrap().temperature = 2.0),
        ];
        let plan = planned(&config());
        let before = made(&plan);
        assert!(before.starts_with("(Ok("), "{before}");
        for (name, change) in changes {
            let mut other = plan.clone();
            change(&mut other);
            assert_ne!(made(&other), before, "{name} of the plan is not obeyed");
        }
    }

    #[test]
    fn a_generation_deals_the_plan_s_microbatches_to_whoever_is_there() {
        let plan = BuildPlan { microbatches: 16, microbatch_size: 4, ..planned(&config()) };
        let sharing = |rank, world: u32| {
            let place = |rank| Placement { rank, cuda_device: Some(rank + 2), ..Placement::default() };
            let formed = octrain_proto::v1::Generation {
                rank,
                roster: (0..world).map(place).collect(),
                ..octrain_proto::v1::Generation::default()
            };
            let generation = Generation::new(formed);
            assert_eq!(device(&generation), Device::Cuda(rank as usize + 2));
            let sharding = data_config(&config().data, 3, &plan, &generation).sharding;
            (sharding.local_microbatches().len(), sharding.global_batch())
        };
        assert_eq!([0, 1, 2, 3].map(|rank| sharing(rank, 4)), [(4, 64); 4]);
        assert_eq!([0, 1, 2].map(|rank| sharing(rank, 3)), [(5, 64), (5, 64), (6, 64)]);
        assert_eq!(sharing(0, 1), (16, 64));
    }

    #[test]
    fn a_recipe_without_its_passes_and_passes_without_their_recipe_are_refused_in_a_plan() {
        let [with, without] = [true, false].map(|on| {
            let config = config().with(|c| {
                c.quantization.qat = on;
                c.quantization.qat_distill = on;
            });
            planned(&config)
        });
        let told = |plan: &BuildPlan| strategy(plan, &network()).unwrap_err().to_string();
        for plan in [&with, &without] {
            strategy(plan, &network()).unwrap();
        }
        let recipe_alone = told(&BuildPlan { passes: without.passes.clone(), ..with.clone() });
        assert!(recipe_alone.contains("`quantize-weights` follows from its strategy"), "{recipe_alone}");
        let passes_alone = told(&BuildPlan { passes: with.passes.clone(), ..without.clone() });
        assert!(
            passes_alone.contains("does not follow from its strategy (qat is not set)"),
            "{passes_alone}"
        );
        assert!(passes_alone.contains("use the same octrain everywhere"), "{passes_alone}");
        let none = told(&BuildPlan { passes: vec![], ..with.clone() });
        assert!(none.contains("`drop-dead` follows"), "{none}");
    }
}
