//! Statistics of training images outside steps: the start of ranges, and BatchNorm's statistics anew. Both are exact
//! functions of the microbatches in the sampler's order, hence the same for every world size.

use super::average::Average;
use super::{Microbatch, OptimError, Program};
use crate::collective::ReduceOp;
use crate::exec::{Counts, Evaluator, Mode, Record, Weights, calibrated};
use crate::quant::histogram::Histogram;
use tch::{Device, Kind, Tensor};

/// A microbatch of this rank: its position among those of all ranks, and its images `[b, C, H, W]`.
pub type Placed = (usize, Tensor);

/// What a calibration comes before, hence by which statistics BatchNorm normalises in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Training: each microbatch's own, as long as steps take those, or where new ones are to be estimated from microbatches before
    /// the next step; else the frozen ones. Running statistics of a network that has seen few batches, or other images, say nothing
    /// of the values that steps will see.
    Training,
    /// Evaluation and export of the network as it is (post-training quantization): the running statistics.
    Deployment,
}

impl Program {
    /// Sets unknown ranges as the observer says, from the floating-point network, in which nothing is left out at random and
    /// BatchNorm normalises as what comes after will. `microbatches` are this rank's among `total` over all ranks; the result does
    /// not depend on how they are shared out, and one that no rank gives (none of its images could be read) does not count.
    /// `asked` says whether this rank was asked to stop. True: done; false: all ranks stopped, and nothing was changed.
    ///
    /// # Errors
    /// When a position is not below `total` or given twice, or none is given at all, besides those of a forward and a
    /// reduction, or when the observer gives a range that is none. No range is set then.
    pub fn calibrate(
        &mut self,
        before: Before,
        microbatches: &[Placed],
        total: usize,
        asked: &dyn Fn() -> bool,
    ) -> Result<bool, OptimError> {
        let Some(observer) = self.quantization.observer.clone() else { return Ok(true) };
        let _guard = tch::no_grad_guard();
        let batch_stats = before == Before::Training && self.sees_batch_statistics();
        let mode = Mode { batch_stats, ..Mode::CALIBRATE };
        let Some(maxima) = self.maxima(mode, microbatches, total, asked)? else { return Ok(false) };
        let known = self.weights.ranges_host()?;
        let wanted = observer.wants_histogram() && known.iter().any(Option::is_none);
        let histograms = match wanted {
            true => match self.histograms(mode, microbatches, total, &maxima, asked)? {
                Some(histograms) => histograms,
                None => return Ok(false),
            },
            false => Vec::new(),
        };
        let ranges = calibrated(&*observer, &self.weights.layout.schemes, &known, &maxima, &histograms);
        // All are judged before any is set.
        let old = Vec::<f32>::try_from(&self.weights.ranges.f_to_device(Device::Cpu)?)?;
        let new: Vec<f32> = old.iter().zip(&ranges).map(|(&old, found)| found.unwrap_or(old)).collect();
        let found = self.weights.layout.quantizers.iter().zip(ranges);
        for (name, range) in found.filter_map(|(name, range)| Some((name, range?))) {
            OptimError::check_range(name, range)?;
        }
        self.weights.ranges.f_copy_(&Tensor::f_from_slice(&new)?)?;
        self.executor.ensure_ranges(&self.weights)?;
        Ok(true)
    }

    /// Whether the next step normalises by each microbatch's statistics, or by such as are estimated from microbatches before it.
    fn sees_batch_statistics(&self) -> bool {
        let due =
            self.due_batch_norm(false).is_some() && self.quantization.estimated != Some(self.global_step);
        due || self.phase(self.global_step).batch_stats
    }

    /// Training images from which ranges that are not known are to be found now, as the recipe says; none where all are known.
    ///
    /// # Errors
    /// When it says 0.
    pub(super) fn due_calibration(&self) -> Result<Option<usize>, OptimError> {
        let unknown = self.weights.ranges_host()?.iter().filter(|r| r.is_none()).count();
        match self.strategy().qat.as_ref().map(|qat| qat.calibration_images) {
            None => Ok(None),
            Some(_) if unknown == 0 => Ok(None),
            Some(0) => Err(OptimError::NoCalibration { unknown }),
            Some(images) => Ok(Some(usize::try_from(images).unwrap_or(usize::MAX))),
        }
    }

    /// [`Self::calibrate`] on what a step is given, as far as the recipe wants so many images, where ranges are not known.
    pub(super) fn calibrate_by_step(&mut self, microbatches: &[Microbatch]) -> Result<(), OptimError> {
        let Some(wanted) = self.due_calibration()? else { return Ok(()) };
        let total = self.reducer.sharing.microbatches;
        let local = self.reducer.place().local_microbatches(total);
        let placed: Vec<Placed> = local
            .zip(microbatches)
            .filter(|(position, m)| position * (m.images.size()[0] as usize) < wanted)
            .map(|(position, m)| (position, m.images.shallow_clone()))
            .collect();
        self.calibrate(Before::Training, &placed, total, &|| false)?;
        Ok(())
    }

    /// Training images from which BatchNorm's statistics are to be estimated anew now, where the recipe says so: before the
    /// first step with frozen statistics, or, where they never froze, at the end (`at_end`).
    pub fn due_batch_norm(&self, at_end: bool) -> Option<usize> {
        let qat = self.strategy().qat.as_ref()?;
        let due = qat.batch_norm_due(self.global_step, self.schedule().total_steps(), at_end)?;
        Some(usize::try_from(due).unwrap_or(usize::MAX))
    }

    /// Whether the microbatches of every rank can be among `total`: all ranks say the same.
    fn check_places(&self, microbatches: &[Placed], total: usize) -> Result<(), OptimError> {
        let (rounds, got) = (self.reducer.place().rounds(total), microbatches.len());
        let beyond = microbatches.iter().find(|(position, _)| *position >= total);
        let wrong = match beyond {
            _ if got > rounds => Some(format!(
                "a rank gives {got} microbatches, but of {total} in all at most {rounds} are local to it"
            )),
            Some((position, _)) => Some(format!("position {position} is not among {total}, from 0")),
            None => None,
        };
        let ranks = Tensor::f_full([1], f64::from(u8::from(wrong.is_some())), (Kind::Float, self.device()))?;
        self.collective().all_reduce(&ranks, ReduceOp::Sum)?;
        match wrong {
            Some(why) => Err(OptimError::Positions(why)),
            None if ranks.f_double_value(&[0])? > 0.0 => {
                Err(OptimError::Positions("those of another rank cannot be placed; it says why".into()))
            }
            None => Ok(()),
        }
    }

    /// The positions that some rank has given, ascending.
    fn given(&self, microbatches: &[Placed], total: usize) -> Result<Vec<i64>, OptimError> {
        let times = Tensor::f_zeros([total as i64], (Kind::Float, self.device()))?;
        for (position, _) in microbatches {
            let _ = times.get(*position as i64).f_add_scalar_(1.0)?;
        }
        self.collective().all_reduce(&times, ReduceOp::Sum)?;
        let times = Vec::<f32>::try_from(&times.f_to_device(Device::Cpu)?)?;
        if let Some(position) = times.iter().position(|&n| n > 1.0) {
            return Err(OptimError::Positions(format!("position {position} is given twice")));
        }
        let given: Vec<i64> = (0..).zip(&times).filter(|&(_, &n)| n > 0.0).map(|(i, _)| i).collect();
        if given.is_empty() {
            return Err(OptimError::NoImages { total });
        }
        Ok(given)
    }

    /// The network, with these numbers, to run over many microbatches, and where it records.
    fn evaluation(&self, weights: &Weights, mode: Mode) -> Result<(Evaluator, Record), OptimError> {
        Ok((self.evaluator_of(weights, mode)?, Record::new(&weights.layout, self.device())?))
    }

    /// For every quantizer the absolute maxima of all microbatches, in order; none when the ranks stopped.
    fn maxima(
        &self,
        mode: Mode,
        microbatches: &[Placed],
        total: usize,
        asked: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Vec<f32>>>, OptimError> {
        self.check_places(microbatches, total)?;
        let quantizers = self.weights.layout.quantizers.len();
        let all = Tensor::f_zeros([total as i64, quantizers as i64, 2], (Kind::Float, self.device()))?;
        let (network, mut record) = self.evaluation(&self.weights, mode)?;
        for round in 0..self.reducer.place().rounds(total) {
            if self.agree_to_stop(asked())? {
                return Ok(None);
            }
            let Some((position, images)) = microbatches.get(round) else { continue };
            record.clear()?;
            let _ = network.recorded(images, &mut record, None)?;
            all.get(*position as i64).f_copy_(&record.maxima)?;
        }
        // Each row is of one rank only.
        self.collective().all_reduce(&all, ReduceOp::Max)?;
        let mut seen: Vec<Vec<f32>> = vec![Vec::new(); quantizers];
        for position in self.given(microbatches, total)? {
            let row = Record::host_maxima(&all.get(position), &self.weights.layout)?;
            row.into_iter().zip(&mut seen).for_each(|(x, s)| s.push(x));
        }
        Ok(Some(seen))
    }

    /// For every quantizer the histogram of its absolute values over all microbatches; none when the ranks stopped.
    fn histograms(
        &self,
        mode: Mode,
        microbatches: &[Placed],
        total: usize,
        maxima: &[Vec<f32>],
        asked: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Histogram>>, OptimError> {
        let mut counts = Counts::new(maxima)?;
        let network = self.evaluator_of(&self.weights, mode)?;
        for round in 0..self.reducer.place().rounds(total) {
            if self.agree_to_stop(asked())? {
                return Ok(None);
            }
            let Some((_, images)) = microbatches.get(round) else { continue };
            counts.add(&network, &self.weights.layout, images)?;
        }
        let shared = counts.bins.f_to_device(self.device())?;
        self.collective().all_reduce(&shared, ReduceOp::Sum)?;
        counts.bins = shared.f_to_device(Device::Cpu)?;
        Ok(Some(counts.histograms()?))
    }

    /// BatchNorm's running statistics anew: the mean over microbatches of the statistics of each, under quantization
    /// as it is trained; those of an average, where there is one, from the averaged network. `asked` and the result are as in
    /// [`Program::calibrate`].
    pub fn reestimate_batch_norm(
        &mut self,
        microbatches: &[Placed],
        total: usize,
        asked: &dyn Fn() -> bool,
    ) -> Result<bool, OptimError> {
        let _guard = tch::no_grad_guard();
        self.check_places(microbatches, total)?;
        let mut all = Vec::new();
        for weights in std::iter::once(&self.weights).chain(self.average()) {
            match self.batch_norm_of(weights, microbatches, total, asked)? {
                Some(mean) => all.push(mean),
                None => return Ok(false),
            }
        }
        let average = self.updater.average.as_mut().and_then(Average::get_mut);
        for (weights, mean) in std::iter::once(&mut self.weights).chain(average).zip(&all) {
            weights.buffers.f_copy_(mean)?;
        }
        self.quantization.estimated = Some(self.global_step);
        Ok(true)
    }

    /// The statistics of the network with these weights; none when the ranks stopped.
    fn batch_norm_of(
        &self,
        weights: &Weights,
        microbatches: &[Placed],
        total: usize,
        asked: &dyn Fn() -> bool,
    ) -> Result<Option<Tensor>, OptimError> {
        let quantize = self.strategy().qat.is_some();
        let len = weights.layout.buffers_len;
        let all = Tensor::f_zeros([total as i64, len], (Kind::Float, self.device()))?;
        let mode = Mode { batch_stats: true, ..Mode::evaluation(quantize) };
        let (network, mut record) = self.evaluation(weights, mode)?;
        for round in 0..self.reducer.place().rounds(total) {
            if self.agree_to_stop(asked())? {
                return Ok(None);
            }
            let Some((position, images)) = microbatches.get(round) else { continue };
            record.clear()?;
            let _ = network.recorded(images, &mut record, None)?;
            record.end_microbatch()?;
            all.get(*position as i64).f_copy_(&record.stats)?;
        }
        self.collective().all_reduce(&all, ReduceOp::Sum)?;
        let given = Tensor::f_from_slice(&self.given(microbatches, total)?)?.f_to_device(self.device())?;
        let mean = all.f_index_select(0, &given)?.f_mean_dim([0i64].as_slice(), false, Kind::Float)?;
        match mean.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite() {
            true => Ok(Some(mean)),
            false => Err(OptimError::Statistics),
        }
    }
}
