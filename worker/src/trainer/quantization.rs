//! What quantization-aware training asks of the loop besides steps: calibration, BatchNorm's statistics anew, the
//! teacher.

use super::{Run, TrainError};
use crate::checkpoint;
use crate::config::{CheckpointSettings, QuantizationSettings};
use crate::data::EvalLoader;
use crate::launcher::signals;
use crate::optim::{Placed, Teacher};
use crate::passes;
use crate::strategy::Purpose;
use std::path::PathBuf;

/// Where the teacher's weights come from: told, or what this run or the one it goes on from started from.
fn teacher_path(qat: &QuantizationSettings, from: &CheckpointSettings) -> Result<PathBuf, TrainError> {
    if let Some(path) = qat.qat_teacher.as_ref().or(from.from_pretrained_params.as_ref()) {
        return Ok(path.clone());
    }
    let message = "--qat-distill needs the floating-point network it learns from: give --qat-teacher, or start from it with --from-pretrained-params";
    Err(TrainError::Config(message.into()))
}

impl Run<'_> {
    /// This rank's share of the first `images` training images, unaugmented, and the microbatches of all ranks; none
    /// when the ranks agreed to stop.
    fn training_images(&self, images: usize) -> Result<Option<(Vec<Placed>, usize)>, TrainError> {
        let train = self
            .job
            .train
            .clone()
            .ok_or_else(|| TrainError::Config("there are no training images".into()))?;
        let (mut loader, total) = EvalLoader::calibration(train, self.data.clone(), images)?;
        let mut share = Vec::new();
        for _ in 0..self.data.sharding.place().rounds(total) {
            if self.program.agree_to_stop(signals::requested())? {
                return Ok(None);
            }
            let Some(batch) = loader.next()? else { continue };
            if batch.labels.size()[0] > 0 {
                share.push((batch.position, batch.images.f_to_device(self.program.device())?));
            }
        }
        Ok(Some((share, total)))
    }

    /// Finds the ranges that are not known yet on training images.
    pub(super) fn calibrate(&mut self) -> Result<(), TrainError> {
        let stopped = || TrainError::Stopped("calibration");
        let unknown = self.program.weights.ranges_host()?.iter().filter(|r| r.is_none()).count();
        if unknown == 0 {
            return Ok(());
        }
        let Some(qat) = &self.program.strategy().qat else { return Ok(()) };
        let wanted = qat.calibration_images as usize;
        if wanted == 0 {
            return Err(TrainError::Config(format!(
                "--qat-calibration-images is 0, but {unknown} activation ranges are not known: give at least one image"
            )));
        }
        let (share, total) = self.training_images(wanted)?.ok_or_else(stopped)?;
        if !self.program.calibrate(&share, total, &signals::requested)? {
            return Err(stopped());
        }
        let images = total * self.data.sharding.batch;
        self.reporter.say(&format!("calibrated {unknown} activation ranges on {images} training images"));
        Ok(())
    }

    /// The images from which BatchNorm's statistics are to be estimated anew now, where the recipe says so: before the
    /// first step with frozen statistics, or, where they never froze, at the end.
    pub(super) fn due_batch_norm(&self, at_end: bool) -> Option<usize> {
        let qat = self.program.strategy().qat.as_ref()?;
        let wanted = qat.bn_images as usize;
        let freeze = qat.freeze_bn.step(self.program.schedule().total_steps()).unwrap_or(u64::MAX);
        let step = self.position.global_step;
        let due = if at_end { step <= freeze } else { step == freeze };
        (due && wanted > 0).then_some(wanted)
    }

    /// Estimates BatchNorm's statistics anew where that is due. False: the ranks agreed to stop, and nothing was changed.
    pub(super) fn reestimate_batch_norm(&mut self, at_end: bool) -> Result<bool, TrainError> {
        let Some(wanted) = self.due_batch_norm(at_end) else { return Ok(true) };
        let Some((share, total)) = self.training_images(wanted)? else { return Ok(false) };
        if !self.program.reestimate_batch_norm(&share, total, &signals::requested)? {
            return Ok(false);
        }
        let images = total * self.data.sharding.batch;
        self.reporter.say(&format!("estimated BatchNorm's statistics anew on {images} training images"));
        Ok(true)
    }

    /// Evaluates the network with its quantizers off, as it was before post-training quantization, and reports that. False:
    /// the ranks agreed to stop.
    pub(super) fn measure_before_quantization(&mut self) -> Result<bool, TrainError> {
        let Some((_, metrics, _)) = self.evaluation(false)? else { return Ok(false) };
        self.reporter.eval_before_quantization(&metrics);
        Ok(true)
    }

    /// Loads the floating-point network whose logits training follows besides the labels.
    pub(super) fn learn_from_teacher(&mut self) -> Result<(), TrainError> {
        let path = teacher_path(&self.config.quantization, &self.config.checkpoints)?;
        let strategy = self.program.strategy();
        let graph = passes::run(self.job.graph.clone(), &strategy.without_qat(), Purpose::Train)
            .map_err(|e| TrainError::Optim(e.into()))?;
        let precision = strategy.amp.precision().to_uppercase();
        let teacher = Teacher::new(graph, &checkpoint::load_weights(&path)?, self.program.device())?;
        self.program.follow(teacher)?;
        self.reporter.say(&format!("distilling from {} in {precision}", path.display()));
        Ok(())
    }
}
