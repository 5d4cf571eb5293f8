//! Where a run starts: from nothing, from weights, or where a checkpoint stopped; and what it saves.

use super::job::{Job, foreign};
use super::source::starts_over;
use super::{EvalResult, Run, TrainError};
use crate::checkpoint::{
    self, CheckpointError, Difference, Manifest, Origin, Part, Position, Pretrained, Same, Snapshot,
    StartedFrom, State, difference,
};
use crate::config::{CheckpointChoice, RunConfig, RunScope, differences};
use crate::data::Preprocessing;
use crate::import::Imported;
use crate::optim::{Program, RestoreError};
use std::collections::BTreeMap;
use std::path::Path;

/// Where a run starts.
#[derive(Debug)]
pub(super) struct Start {
    pub position: Position,
    pub resumed: bool,
    /// The checkpoint it goes on from was evaluated.
    pub evaluated: bool,
    /// What follows the last step of its run is done, if that step is.
    pub concluded: bool,
    /// What its training began with; none where the checkpoint it goes on from does not say.
    pub from: Option<StartedFrom>,
    /// For people.
    pub message: String,
}

impl Start {
    /// Nowhere yet: all of it comes from the others.
    pub fn of_others() -> Self {
        Self { from: None, ..Self::anew(StartedFrom::Seed(0), String::new()) }
    }

    /// At the first step.
    fn anew(from: StartedFrom, message: String) -> Self {
        let position = Position::default();
        let from = Some(from);
        Self { position, resumed: false, evaluated: false, concluded: false, from, message }
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
        let manifest = &snapshot.manifest;
        let fits = Fits { path, manifest };
        fits.same_task(config, job)?;
        if let Some(difference) = difference(&snapshot.made(), &program.made(), Same::Meaning) {
            return Err(fits.differs(difference));
        }
        let restart = starts_over(config);
        let position = if restart { Position::default() } else { manifest.position };
        if config.run.run_scope != RunScope::EvalOnly {
            fits.check_position(position, steps_per_epoch, global_batch)?;
            program.restore_as(&snapshot, Same::Meaning).map_err(|e| fits.unfit(e))?;
        } else {
            load(program, path, &snapshot.model, Some(manifest), false)?;
        }
        let message = resumed(path, manifest, position, config, global_batch)?;
        let from = match restart {
            true => Some(StartedFrom::Checkpoint {
                path: path.display().to_string(),
                origin: Origin::of(path, manifest),
            }),
            false => manifest.started_from.clone(),
        };
        return Ok(Start {
            position,
            resumed: true,
            evaluated: !manifest.metrics.is_empty(),
            concluded: manifest.concluded,
            from,
            message,
        });
    }
    if let Some(path) = &config.checkpoints.from_pretrained_params {
        let imported = foreign(config, Some(path))?;
        let of =
            imported.as_ref().map_or_else(String::new, |imported| format!(" ({})", imported.origin.name()));
        let mut message = format!("weights from {}{of}", path.display());
        let mut add = |text: String| message.push_str(&format!("; {text}"));
        let Pretrained { state, from, checkpoint } = match imported {
            Some(Imported { network, from, .. }) => {
                if !network.optimizer.is_empty() {
                    add("its momentum stays there: it is taken by `octrain import` and `octrain train --from-checkpoint` of what that makes, with --last-epoch-of-checkpoint none".into());
                }
                Pretrained { state: network.model, from, checkpoint: None }
            }
            None => checkpoint::pretrained(path)?,
        };
        let allow = config.checkpoints.allow_mismatch;
        let own = checkpoint.as_ref().map(|(_, manifest)| manifest);
        let mismatch = load(program, path, &state, own, allow)?;
        if let Some(m) = mismatch {
            add(format!("initialised or left out: {m}"));
        }
        if let Some((folder, manifest)) = &checkpoint {
            let fits = Fits { path, manifest };
            match checkpoint::load_graph(folder, manifest) {
                Err(e) if allow => add(format!("its network is not read, and its weights are taken: {e}")),
                Err(e) => return Err(e.into()),
                Ok(graph) => match difference(&manifest.made(&graph), &program.made(), Same::Nodes) {
                    Some(Difference { theirs, ours, .. }) if !allow => {
                        let hint = "; --allow-mismatch takes its weights all the same";
                        return Err(fits.other("the network's graph", theirs, ours, hint));
                    }
                    Some(d) => add(d.to_string()),
                    None => {}
                },
            }
            let own = manifest.own_passes();
            if !own.is_empty() {
                add(format!("they were trained with passes of another program's own: {}", own.join(", ")));
            }
        }
        return Ok(Start::anew(from, message));
    }
    if config.run.run_scope == RunScope::EvalOnly {
        return Err(TrainError::Config(
            "nothing to evaluate: give --from-checkpoint, or --from-pretrained-params".into(),
        ));
    }
    let auto = match config.checkpoints.last_epoch_of_checkpoint {
        Some(CheckpointChoice::Auto) => {
            format!(" (--last-epoch-of-checkpoint auto: {} holds none yet)", config.run.output_dir.display())
        }
        _ => String::new(),
    };
    let message = format!("starting from initial weights, seed {}{auto}", config.run.seed);
    Ok(Start::anew(StartedFrom::Seed(config.run.seed), message))
}

/// Where a resumed run stands, and what is not as it was.
fn resumed(
    path: &Path,
    manifest: &Manifest,
    position: Position,
    config: &RunConfig,
    global_batch: usize,
) -> Result<String, CheckpointError> {
    let Position { epoch, step_in_epoch, global_step } = position;
    let mut message = format!(
        "resumed from {} at epoch {epoch}, step {step_in_epoch} ({global_step} in all); {}",
        path.display(),
        Origin::of(path, manifest)
    );
    if config.run.run_scope == RunScope::EvalOnly {
        if config.strategy().qat != manifest.strategy.qat {
            message.push_str("\n  not as it was trained: the recipe of quantization is another one");
        }
        return Ok(message);
    }
    let mut add = |text: String| message.push_str(&format!("\n  {text}"));
    // Who takes weights and momentum to the first epoch goes on with no settings, and what was imported has none.
    if manifest.config.is_some() || !starts_over(config) {
        let changed = differences(manifest.settings(path)?, config);
        if !changed.is_empty() {
            add(format!("not as it was trained so far: {}", changed.join("; ")));
        }
    }
    if manifest.global_batch != 0 && manifest.global_batch != global_batch {
        add(format!(
            "the global batch changes from {} to {global_batch} images; --global-batch-size {} keeps it",
            manifest.global_batch, manifest.global_batch
        ));
    }
    if let Some(left_out) = manifest.left_out() {
        add(left_out);
    }
    Ok(message)
}

/// Takes weights and ranges, those of a checkpoint where they have a manifest; what does not match is an error, or, if
/// allowed, returned.
fn load(
    program: &mut Program,
    path: &Path,
    state: &State,
    manifest: Option<&Manifest>,
    allow: bool,
) -> Result<Option<checkpoint::Mismatch>, TrainError> {
    let mismatch = checkpoint::match_weights(program.graph(), state);
    if !mismatch.is_empty() && !allow {
        let (network, own) = (program.graph().name.clone(), manifest.map(|m| m.model.clone()));
        let mismatch = Box::new(mismatch);
        return Err(CheckpointError::Mismatch { path: path.into(), network, own, mismatch }.into());
    }
    program.weights.load(state)?;
    Ok((!mismatch.is_empty()).then_some(mismatch))
}

/// Whether a checkpoint's network tells the same classes of images of the same shape apart as the network of `job` would.
///
/// # Errors
/// On the first of model, classes and image shape that differs.
pub fn same_task(path: &Path, manifest: &Manifest, config: &RunConfig, job: &Job) -> Result<(), TrainError> {
    Fits { path, manifest }.same_task(config, job)
}

/// What to do where a checkpoint has a network of another name than the one that is wanted.
pub(super) const OTHER_NETWORK: &str = "; give the name that it has there as --model-arch-name, or leave the flag out where the checkpoint is that of --from-checkpoint";

/// A checkpoint against the run that wants to go on from it.
struct Fits<'a> {
    path: &'a Path,
    manifest: &'a Manifest,
}

impl Fits<'_> {
    fn other(&self, what: &'static str, found: String, wanted: String, hint: &'static str) -> TrainError {
        CheckpointError::Other { path: self.path.into(), what, found, wanted, hint }.into()
    }

    /// Why a program does not go on from the checkpoint, with what to do about it.
    fn unfit(&self, e: RestoreError) -> TrainError {
        match e {
            RestoreError::Differs(difference) => self.differs(difference),
            RestoreError::Mismatch(mismatch) => {
                let (network, mismatch) = (self.manifest.model.clone(), Box::new(mismatch));
                CheckpointError::Mismatch { path: self.path.into(), network, own: None, mismatch }.into()
            }
            RestoreError::OtherRule { wanted, found, .. } => self.other(
                "what the update rule keeps",
                found,
                wanted,
                "; go on with --optimizer as it was, or take the weights alone with --from-pretrained-params",
            ),
            RestoreError::Program(e) => TrainError::Optim(e),
        }
    }

    fn same_task(&self, config: &RunConfig, job: &Job) -> Result<(), TrainError> {
        let m = self.manifest;
        if !m.model.eq_ignore_ascii_case(&config.model.model_arch_name) {
            return Err(self.other(
                "the model",
                m.model.clone(),
                config.model.model_arch_name.clone(),
                OTHER_NETWORK,
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

    /// A difference with what to do about it.
    fn differs(&self, difference: Difference) -> TrainError {
        let Difference { part, theirs, ours } = difference;
        let (what, hint) = match part {
            // The same name may stand for another graph: in another version, or in a program of one's own.
            Part::Graph => (
                "the network's graph",
                "; to train this network from its weights: --from-pretrained-params, with --allow-mismatch",
            ),
            Part::Passes => (
                "the list of a program's own passes",
                "; go on in the program that wrote it, or take its weights alone with --from-pretrained-params",
            ),
            Part::Quantization if ours == "on" => (
                "--qat",
                "; to begin quantization-aware training from it, give it as --from-pretrained-params",
            ),
            Part::Quantization => {
                ("--qat", "; say --qat, or take its weights alone with --from-pretrained-params")
            }
            Part::Target => ("--target", "; every profile can be exported from it, whatever its target"),
            Part::Strategy(_) => ("the strategy", ""),
        };
        self.other(what, theirs, ours, hint)
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
    /// Everything a run needs to go on, and all that others need of its network.
    pub(super) fn snapshot(&self, eval: Option<&EvalResult>) -> Result<Snapshot, TrainError> {
        let made = self
            .program
            .snapshot(self.task.job.classes().to_vec(), Preprocessing::of(&self.task.config.data))?;
        let metrics = eval.map_or_else(BTreeMap::new, |e| {
            BTreeMap::from([
                ("val.top1".into(), e.top1),
                ("val.top5".into(), e.top5),
                ("val.loss".into(), e.loss),
            ])
        });
        let manifest = Manifest {
            started_from: self.output.started_from.clone(),
            // As it was told: the program's has the steps that its parts are of this run's length.
            strategy: self.task.config.strategy(),
            position: self.progress.position,
            steps_per_epoch: self.steps_per_epoch,
            global_batch: self.task.data.sharding.global_batch(),
            world_size: self.task.data.sharding.world,
            concluded: self.progress.concluded,
            metrics,
            config: Some(self.task.config.clone().with(|c| c.checkpoints.overwrite = false)),
            ..made.manifest
        };
        Ok(Snapshot { manifest, ..made })
    }
}
