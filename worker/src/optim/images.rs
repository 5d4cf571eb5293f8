//! Statistics by the recipe's numbers of images, from a set of training images: what a recipe asks for before the first
//! step, and where BatchNorm freezes.

use super::{Before, OptimError, Placed, Program};
use crate::collective::ReduceOp;
use crate::data::{DataConfig, Dataset, EvalLoader};
use std::sync::Arc;
use tch::Tensor;

/// What became of statistics that a recipe may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// The recipe asks for none now.
    NotDue,
    /// A rank was asked to stop; nothing was changed.
    Stopped,
    /// They were taken.
    Taken {
        /// Images that were read, over all ranks.
        images: u64,
    },
}

/// Training images, unaugmented.
struct TrainingImages {
    /// This rank's microbatches.
    share: Vec<Placed>,
    /// Microbatches of all ranks, with those that have no readable image.
    microbatches: usize,
    /// Images of all ranks that were read.
    read: u64,
}

impl Program {
    /// The first `images` training images; none when the ranks agreed to stop.
    fn training_images(
        &self,
        train: &Arc<Dataset>,
        data: &DataConfig,
        images: usize,
        asked: &dyn Fn() -> bool,
    ) -> Result<Option<TrainingImages>, OptimError> {
        let (mut loader, microbatches) = EvalLoader::calibration(train.clone(), data.clone(), images)?;
        let mut share = Vec::new();
        for _ in 0..data.sharding.place().rounds(microbatches) {
            if self.agree_to_stop(asked())? {
                return Ok(None);
            }
            let Some(batch) = loader.next()? else { continue };
            if batch.labels.size()[0] > 0 {
                share.push((batch.position, batch.images.f_to_device(self.device())?));
            }
        }
        let read = share.iter().map(|(_, images)| images.size()[0] as f64).sum::<f64>();
        let all = Tensor::f_from_slice(&[read])?.f_to_device(self.device())?;
        self.collective().all_reduce(&all, ReduceOp::Sum)?;
        let read = all.f_double_value(&[0])? as u64;
        Ok(Some(TrainingImages { share, microbatches, read }))
    }

    /// [`Self::calibrate`] on the first `Qat::calibration_images` images of `train`, unaugmented, in the sampler's order, where
    /// ranges are not known. `data` says how images are read and which of them are this rank's; `asked` whether this rank was
    /// asked to stop.
    ///
    /// # Errors
    /// When the recipe's number of images is 0, besides those of reading and of [`Self::calibrate`].
    pub fn calibrate_on(
        &mut self,
        before: Before,
        train: &Arc<Dataset>,
        data: &DataConfig,
        asked: &dyn Fn() -> bool,
    ) -> Result<Statistics, OptimError> {
        let Some(wanted) = self.due_calibration()? else { return Ok(Statistics::NotDue) };
        let Some(all) = self.training_images(train, data, wanted, asked)? else {
            return Ok(Statistics::Stopped);
        };
        match self.calibrate(before, &all.share, all.microbatches, asked)? {
            true => Ok(Statistics::Taken { images: all.read }),
            false => Ok(Statistics::Stopped),
        }
    }

    /// [`Self::reestimate_batch_norm`] on the first `Qat::bn_images` images of `train`, where [`Self::due_batch_norm`] says that
    /// the recipe asks for that now; otherwise as [`Self::calibrate_on`].
    pub fn reestimate_batch_norm_on(
        &mut self,
        train: &Arc<Dataset>,
        data: &DataConfig,
        at_end: bool,
        asked: &dyn Fn() -> bool,
    ) -> Result<Statistics, OptimError> {
        let Some(wanted) = self.due_batch_norm(at_end) else { return Ok(Statistics::NotDue) };
        let Some(all) = self.training_images(train, data, wanted, asked)? else {
            return Ok(Statistics::Stopped);
        };
        match self.reestimate_batch_norm(&all.share, all.microbatches, asked)? {
            true => Ok(Statistics::Taken { images: all.read }),
            false => Ok(Statistics::Stopped),
        }
    }
}
