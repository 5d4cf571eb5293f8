//! Where a run starts: from nothing, from weights, or where a checkpoint stopped; and what it saves.

use super::job::Job;
use super::{EvalResult, Run, TrainError};
use crate::checkpoint::{
    self, CheckpointError, FORMAT, HostTensor, LossScaleState, Manifest, Origin, Position, QatState,
};
use crate::checkpoint::{Snapshot, State};
use crate::config::{RunConfig, RunScope, differences};
use crate::exec::WeightsLayout;
use crate::optim::Program;
use crate::optim::loss_scale::LossScale;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tch::{Device, Tensor};

/// Prefix of momentum tensors.
const MOMENTUM: &str = "momentum.";

/// Name of a learned scale's momentum.
fn scale_momentum(quantizer: &str) -> String {
    format!("{MOMENTUM}quant.{quantizer}.step")
}

/// Where a run starts.
#[derive(Debug)]
pub(super) struct Start {
    pub position: Position,
    pub resumed: bool,
    /// The checkpoint it goes on from was evaluated.
    pub evaluated: bool,
    /// What follows the last step of its run is done, if that step is.
    pub concluded: bool,
    /// For people.
    pub message: String,
}

impl Start {
    /// At the first step.
    fn anew(message: String) -> Self {
        let position = Position::default();
        Self { position, resumed: false, evaluated: false, concluded: false, message }
    }
}

/// Loads what the configuration says into `program`, which is initialised.
pub(super) fn start(
    config: &RunConfig,
    job: &Job,
    source: Option<&Path>,
    program: &mut Program,
    steps_per_epoch: u64,
    global_batch: usize,
) -> Result<Start, TrainError> {
    if let Some(path) = source {
        let snapshot = checkpoint::load(path)?;
        let fits = Fits { path, manifest: &snapshot.manifest };
        fits.check(config, job)?;
        let restart = config.checkpoints.last_epoch_of_checkpoint.as_deref() == Some("none");
        let position = if restart { Position::default() } else { snapshot.manifest.position };
        if config.run.run_scope != RunScope::EvalOnly {
            fits.check_position(position, steps_per_epoch, global_batch)?;
        }
        load(program, path, &snapshot.model, false)?;
        load_momentum(program, path, &snapshot.optimizer)?;
        if let LossScale::Dynamic { .. } = program.loss_scale {
            let s = snapshot.manifest.loss_scale;
            program.loss_scale = LossScale::Dynamic { scale: s.scale, good: s.good_steps };
        }
        let evaluated = !snapshot.manifest.metrics.is_empty();
        let message = resumed(path, &snapshot.manifest, position, config, global_batch);
        let concluded = snapshot.manifest.concluded;
        return Ok(Start { position, resumed: true, evaluated, concluded, message });
    }
    if let Some(path) = &config.checkpoints.from_pretrained_params {
        let state = checkpoint::load_weights(path)?;
        let mismatch = load(program, path, &state, config.checkpoints.allow_mismatch)?;
        let rest = mismatch.map_or_else(String::new, |m| format!("; initialised or left out: {m}"));
        let message = format!("weights from {}{rest}", path.display());
        return Ok(Start::anew(message));
    }
    if config.run.run_scope == RunScope::EvalOnly {
        return Err(TrainError::Config(
            "nothing to evaluate: give --from-checkpoint, or --from-pretrained-params".into(),
        ));
    }
    let auto = match config.checkpoints.last_epoch_of_checkpoint.as_deref() {
        Some("auto") => {
            format!(" (--last-epoch-of-checkpoint auto: {} holds none yet)", config.run.output_dir.display())
        }
        _ => String::new(),
    };
    let message = format!("starting from initial weights, seed {}{auto}", config.run.seed);
    Ok(Start::anew(message))
}

/// Where a resumed run stands, and what is not as it was.
fn resumed(
    path: &Path,
    manifest: &Manifest,
    position: Position,
    config: &RunConfig,
    global_batch: usize,
) -> String {
    let Position { epoch, step_in_epoch, global_step } = position;
    let mut message = format!(
        "resumed from {} at epoch {epoch}, step {step_in_epoch} ({global_step} in all); {}",
        path.display(),
        Origin::of(path, manifest)
    );
    if config.run.run_scope == RunScope::EvalOnly {
        return message;
    }
    let mut add = |text: String| message.push_str(&format!("\n  {text}"));
    let changed = differences(&manifest.config, config);
    if !changed.is_empty() {
        add(format!("not as it was trained so far: {}", changed.join("; ")));
    }
    if manifest.global_batch != global_batch {
        add(format!(
            "the global batch changes from {} to {global_batch} images; --global-batch-size {} keeps it",
            manifest.global_batch, manifest.global_batch
        ));
    }
    if let Some(left_out) = manifest.left_out() {
        add(left_out);
    }
    message
}

/// Takes weights and ranges; what does not match is an error, or, if allowed, returned.
fn load(
    program: &mut Program,
    path: &Path,
    state: &State,
    allow: bool,
) -> Result<Option<checkpoint::Mismatch>, TrainError> {
    let mismatch = checkpoint::match_weights(program.graph(), state);
    if !mismatch.is_empty() && !allow {
        return Err(CheckpointError::Mismatch { path: path.into(), mismatch }.into());
    }
    program.weights.load(state)?;
    Ok((!mismatch.is_empty()).then_some(mismatch))
}

fn load_momentum(program: &Program, path: &Path, state: &State) -> Result<(), TrainError> {
    let layout = &program.weights.layout;
    for (slot, mut view) in
        layout.trainable.iter().zip(WeightsLayout::views(program.momentum(), &layout.trainable))
    {
        let name = format!("{MOMENTUM}{}", slot.name);
        let Some(t) = state.get(&name).filter(|t| t.data.len() as i64 == slot.len) else {
            let mismatch = checkpoint::Mismatch { missing: vec![name], ..Default::default() };
            return Err(CheckpointError::Mismatch { path: path.into(), mismatch }.into());
        };
        view.f_copy_(&Tensor::f_from_slice(&t.data)?.f_view(slot.shape.as_slice())?)?;
    }
    let learned = program.scale_momentum();
    for (i, name) in layout.quantizers.iter().enumerate().take(learned.size()[0] as usize) {
        let name = scale_momentum(name);
        let Some(&[momentum]) = state.get(&name).map(|t| t.data.as_slice()) else {
            let mismatch = checkpoint::Mismatch { missing: vec![name], ..Default::default() };
            return Err(CheckpointError::Mismatch { path: path.into(), mismatch }.into());
        };
        let _ = learned.get(i as i64).f_fill_(f64::from(momentum))?;
    }
    Ok(())
}

/// Whether a checkpoint's network tells the same classes of images of the same shape apart as the network of `job` would.
///
/// # Errors
/// On the first of model, classes and image shape that differs.
pub fn same_task(path: &Path, manifest: &Manifest, config: &RunConfig, job: &Job) -> Result<(), TrainError> {
    Fits { path, manifest }.same_task(config, job)
}

/// A checkpoint against the run that wants to go on from it.
struct Fits<'a> {
    path: &'a Path,
    manifest: &'a Manifest,
}

impl Fits<'_> {
    fn other(&self, what: &'static str, found: String, wanted: String, hint: &'static str) -> TrainError {
        CheckpointError::Other { path: self.path.into(), what, found, wanted, hint }.into()
    }

    fn same_task(&self, config: &RunConfig, job: &Job) -> Result<(), TrainError> {
        let m = self.manifest;
        if m.model != job.graph.name {
            return Err(self.other(
                "the model",
                m.model.clone(),
                job.graph.name.clone(),
                "; give its --model-arch-name",
            ));
        }
        if m.class_names.len() != job.classes().len() {
            let (found, wanted) = (m.class_names.len().to_string(), job.classes().len().to_string());
            return Err(self.other(
                "the number of classes",
                found,
                wanted,
                "; to train for other classes from its weights: octrain train --from-pretrained-params with --allow-mismatch",
            ));
        }
        if let Some((a, b)) = m.class_names.iter().zip(job.classes()).find(|(a, b)| a != b) {
            return Err(self.other(
                "a class",
                format!("`{a}`"),
                format!("`{b}`"),
                "; classes are the folders of --image-root, sorted",
            ));
        }
        if m.image_shape != config.model.image_shape {
            let text = |s: [usize; 3]| format!("{},{},{}", s[0], s[1], s[2]);
            return Err(self.other("--image-shape", text(m.image_shape), text(config.model.image_shape), ""));
        }
        Ok(())
    }

    fn check(&self, config: &RunConfig, job: &Job) -> Result<(), TrainError> {
        self.same_task(config, job)?;
        let m = self.manifest;
        let on = |q: bool| if q { "on" } else { "off" }.to_string();
        if m.qat.is_some() != config.quantization.qat {
            let hint = if config.quantization.qat {
                "; to begin quantization-aware training from it, give it as --from-pretrained-params"
            } else {
                "; say --qat, or take its weights alone with --from-pretrained-params"
            };
            return Err(self.other("--qat", on(m.qat.is_some()), on(config.quantization.qat), hint));
        }
        match &m.qat {
            Some(q) if q.target != config.quantization.target => {
                let text = |t| format!("{t:?}").to_lowercase();
                Err(self.other(
                    "--target",
                    text(q.target),
                    text(config.quantization.target),
                    "; every profile can be exported from it, whatever its target",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Within an epoch the sampler's position means something only for the same global batch.
    fn check_position(
        &self,
        p: Position,
        steps_per_epoch: u64,
        global_batch: usize,
    ) -> Result<(), TrainError> {
        let m = self.manifest;
        if p.step_in_epoch == 0 {
            return Ok(());
        }
        if m.global_batch != global_batch {
            let hint =
                "; it was taken within an epoch, so the global batch must be the same (--global-batch-size)";
            return Err(self.other(
                "the global batch",
                m.global_batch.to_string(),
                global_batch.to_string(),
                hint,
            ));
        }
        if m.steps_per_epoch != steps_per_epoch {
            let hint = "; it was taken within an epoch, so the training images must be the same";
            let (found, wanted) = (m.steps_per_epoch.to_string(), steps_per_epoch.to_string());
            return Err(self.other("the number of steps in an epoch", found, wanted, hint));
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Everything a run needs to go on.
    pub(super) fn snapshot(&self, eval: Option<&EvalResult>) -> Result<Snapshot, TrainError> {
        let program = &self.program;
        let layout = &program.weights.layout;
        let host = Vec::<f32>::try_from(&program.momentum().f_to_device(Device::Cpu)?)?;
        let optimizer: State = layout
            .trainable
            .iter()
            .map(|s| {
                let data = host[s.offset as usize..(s.offset + s.len) as usize].to_vec();
                let shape = s.shape.iter().map(|&d| d as usize).collect();
                (format!("{MOMENTUM}{}", s.name), HostTensor { shape, data })
            })
            .collect();
        let learned = Vec::<f32>::try_from(&program.scale_momentum().f_to_device(Device::Cpu)?)?;
        let learned = layout.quantizers.iter().zip(learned).map(|(name, momentum)| {
            (scale_momentum(name), HostTensor { shape: vec![1], data: vec![momentum] })
        });
        let optimizer = optimizer.into_iter().chain(learned).collect();
        let (scale, good_steps) = match program.loss_scale {
            LossScale::Dynamic { scale, good } => (scale, good),
            other => (other.factor(), 0),
        };
        let calibrated = program.weights.ranges_host()?.iter().flatten().count();
        let observers_frozen = !program.phase(program.global_step).observe;
        let metrics = eval.map_or_else(BTreeMap::new, |e| {
            BTreeMap::from([
                ("val.top1".into(), e.top1),
                ("val.top5".into(), e.top5),
                ("val.loss".into(), e.loss),
            ])
        });
        let created_unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Ok(Snapshot {
            manifest: Manifest {
                format: FORMAT,
                octrain_version: env!("CARGO_PKG_VERSION").into(),
                created_unix,
                run: None,
                model: self.job.graph.name.clone(),
                image_shape: self.config.model.image_shape,
                class_names: self.job.classes().to_vec(),
                position: self.position,
                steps_per_epoch: self.steps_per_epoch(),
                global_batch: self.data.sharding.global_batch(),
                world_size: self.data.sharding.world,
                loss_scale: LossScaleState { scale, good_steps },
                qat: self.config.quantization.qat.then_some(QatState {
                    target: self.config.quantization.target,
                    calibrated,
                    observers_frozen,
                }),
                concluded: self.concluded,
                metrics,
                config: self.config.clone().with(|c| c.checkpoints.overwrite = false),
                files: Vec::new(),
                unknown: Vec::new(),
            },
            model: program.weights.to_state()?,
            optimizer,
        })
    }
}
