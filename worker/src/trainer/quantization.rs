//! What quantization-aware training asks of the loop besides steps: calibration, BatchNorm's statistics anew, the
//! teacher.

use super::job::foreign;
use super::{Run, TrainError, leave};
use crate::checkpoint::{self, CheckpointError, Manifest, Which};
use crate::config::{CheckpointSettings, QuantizationSettings};
use crate::data::{Dataset, Preprocessing};
use crate::exec::Mode;
use crate::optim::{Before, OptimError, Statistics, Teacher};
use crate::passes::{self, Passes};
use crate::strategy::Purpose;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the teacher's weights come from: told, or what this run or the one it goes on from started from.
fn teacher_path(qat: &QuantizationSettings, from: &CheckpointSettings) -> Result<PathBuf, TrainError> {
    if let Some(path) = qat.qat_teacher.as_ref().or(from.from_pretrained_params.as_ref()) {
        return Ok(path.clone());
    }
    let message = "--qat-distill needs the floating-point network it learns from: give --qat-teacher, or start from it with --from-pretrained-params";
    Err(TrainError::Config(message.into()))
}

/// Images that cannot be read are the data's failure, wherever they are read.
fn of_images(e: OptimError) -> TrainError {
    match e {
        OptimError::Data(e) => (*e).into(),
        e => e.into(),
    }
}

impl Run<'_> {
    /// The training images that statistics are taken from.
    fn training_images(&self) -> Result<Arc<Dataset>, TrainError> {
        let none = || TrainError::Config("there are no training images".into());
        self.task.job.train.clone().ok_or_else(none)
    }

    /// Finds the ranges that are not known yet on training images.
    pub(super) fn calibrate(&mut self) -> Result<(), TrainError> {
        let unknown = self.program.weights.ranges_host()?.iter().filter(|r| r.is_none()).count();
        if unknown == 0 {
            return Ok(());
        }
        let train = self.training_images()?;
        let before = if self.task.config.run.epochs == 0 { Before::Deployment } else { Before::Training };
        let session = self.task.session;
        let stops = || leave::stops(session);
        let done = self.program.calibrate_on(before, &train, &self.task.data, &stops);
        match done.map_err(of_images)? {
            Statistics::NotDue => Ok(()),
            Statistics::Stopped => Err(TrainError::Stopped("calibration")),
            Statistics::Taken { images } => {
                let done = format!("calibrated {unknown} activation ranges on {images} training images");
                self.reporter.say(&done);
                Ok(())
            }
        }
    }

    /// Estimates BatchNorm's statistics anew where that is due. False: the ranks agreed to stop, and nothing was changed.
    pub(super) fn reestimate_batch_norm(&mut self, at_end: bool) -> Result<bool, TrainError> {
        if self.program.due_batch_norm(at_end).is_none() {
            return Ok(true);
        }
        let (train, session) = (self.training_images()?, self.task.session);
        let stops = || leave::stops(session);
        let done = self.program.reestimate_batch_norm_on(&train, &self.task.data, at_end, &stops);
        match done.map_err(of_images)? {
            Statistics::NotDue => Ok(true),
            Statistics::Stopped => Ok(false),
            Statistics::Taken { images } => {
                let done = format!("estimated BatchNorm's statistics anew on {images} training images");
                self.reporter.say(&done);
                Ok(true)
            }
        }
    }

    /// Evaluates the network with its quantizers off, as it was before post-training quantization, and reports that. False:
    /// the ranks agreed to stop.
    pub(super) fn measure_before_quantization(&mut self) -> Result<bool, TrainError> {
        let float = self.program.evaluator(Mode::evaluation(false))?;
        let Some((_, metrics, _)) = self.evaluation(&float)? else { return Ok(false) };
        self.reporter.eval_before_quantization(&metrics);
        Ok(true)
    }

    /// Whether the recipe has a teacher, which is not there yet.
    pub(super) fn needs_teacher(&self) -> bool {
        let recipe = self.program.strategy().qat.as_ref();
        recipe.is_some_and(|q| q.distillation.is_some()) && !self.program.follows()
    }

    /// Loads the network whose logits training follows besides the labels: a checkpoint's own, or, where there are weights
    /// alone, the one that is trained.
    pub(super) fn learn_from_teacher(&mut self) -> Result<(), TrainError> {
        let path = teacher_path(&self.task.config.quantization, &self.task.config.checkpoints)?;
        let (strategy, device) = (self.program.strategy(), self.program.device());
        let imported = foreign(self.task.config, Some(&path))?;
        let teacher = if let Some(imported) = imported {
            let graph = passes::run(imported.network.graph, &strategy.without_qat(), Purpose::Train)
                .map_err(|e| TrainError::Optim(e.into()))?;
            Teacher::new(graph, &imported.network.model, device)?
        } else if path.is_dir() {
            let folder = checkpoint::find(&path, Which::Auto)?;
            let snapshot = checkpoint::load(&folder)?;
            self.same_answers(&folder, &snapshot.manifest)?;
            Teacher::of_checkpoint(&snapshot, &Passes::default(), strategy, device)?
        } else {
            let graph = passes::run(self.task.job.graph.clone(), &strategy.without_qat(), Purpose::Train)
                .map_err(|e| TrainError::Optim(e.into()))?;
            Teacher::new(graph, &checkpoint::load_weights(&path)?, device)?
        };
        let precision = strategy.amp.precision().to_uppercase();
        self.program.follow(teacher)?;
        self.reporter.say(&format!("distilling from {} in {precision}", path.display()));
        Ok(())
    }

    /// Whether the logits of a teacher are of the run's classes, in their order, and of images that are normalised as the
    /// run's are.
    fn same_answers(&self, path: &Path, teacher: &Manifest) -> Result<(), TrainError> {
        let Some((what, found, wanted)) =
            other_answers(teacher, self.task.job.classes(), &Preprocessing::of(&self.task.config.data))
        else {
            return Ok(());
        };
        let hint =
            "; its logits are followed class by class: give a teacher of the same task (--qat-teacher)";
        Err(CheckpointError::Other { path: path.into(), what, found, wanted, hint }.into())
    }
}

/// What of a teacher's logits does not fit a run: what differs, as the teacher has it and as the run has it.
fn other_answers(
    teacher: &Manifest,
    classes: &[String],
    run: &Preprocessing,
) -> Option<(&'static str, String, String)> {
    let names = &teacher.class_names;
    if names.len() != classes.len() {
        return Some(("the number of classes", names.len().to_string(), classes.len().to_string()));
    }
    if let Some((a, b)) = names.iter().zip(classes).find(|(a, b)| a != b) {
        return Some(("a class", format!("`{a}`"), format!("`{b}`")));
    }
    let normalised =
        |p: &Preprocessing| format!("{} {:?} {:?}", p.normalize_scale, p.normalize_mean, p.normalize_std);
    let (theirs, ours) = (normalised(&teacher.preprocessing), normalised(run));
    (theirs != ours).then_some(("--normalize-scale, -mean and -std", theirs, ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DataSettings;
    use crate::models;
    use crate::strategy::Strategy;

    #[test]
    fn a_teacher_of_another_network_is_followed_where_its_logits_are_of_the_same_classes_and_images() {
        let names = |all: &[&str]| all.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let graph = models::build("ResNet20", [3, 32, 32], 2).unwrap();
        let prepared = Preprocessing::of(&DataSettings::default());
        let teacher = Manifest::new(&graph, names(&["a", "b"]), prepared.clone(), Strategy::default());
        let differs = |classes: &[&str], run: &Preprocessing| {
            other_answers(&teacher, &names(classes), run).map(|d| d.0)
        };
        assert_eq!(differs(&["a", "b"], &prepared), None);
        // Another crop of the same numbers is no other image.
        let crop = Preprocessing { resize_short: 300, ..prepared.clone() };
        assert_eq!(differs(&["a", "b"], &crop), None);
        assert_eq!(differs(&["b", "a"], &prepared), Some("a class"));
        assert_eq!(differs(&["a"], &prepared), Some("the number of classes"));
        let pixels = Preprocessing { normalize_scale: 1.0, ..prepared.clone() };
        assert_eq!(differs(&["a", "b"], &pixels), Some("--normalize-scale, -mean and -std"));
    }
}
