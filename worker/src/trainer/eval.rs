//! Evaluation: sums over all ranks, every image counted exactly once.

use super::TrainError;
use crate::collective::ReduceOp;
use crate::data::EvalLoader;
use crate::exec::{Mode, Prepared, Record};
use crate::optim::Program;
use serde::Serialize;
use tch::{Device, Kind, Reduction, Tensor};

/// Result of an evaluation over all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EvalResult {
    /// Share of images whose best class is right, in percent.
    pub top1: f64,
    /// Share of images whose class is among the best five, in percent.
    pub top5: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Images counted.
    pub images: u64,
    /// Corrupt images left out.
    pub corrupt: u64,
}

/// `[images, top-1, top-5, loss]` of one batch as exact 64-bit sums.
fn score(logits: &Tensor, labels: &Tensor) -> Result<[f64; 4], tch::TchError> {
    let (count, classes) = logits.size2()?;
    let (_, best) = logits.f_topk(classes.min(5), 1, true, true)?;
    let hits = best.f_eq_tensor(&labels.f_unsqueeze(1)?)?;
    let top1 = hits.f_narrow(1, 0, 1)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    let top5 = hits.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    let loss = logits.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Sum, -100, 0.0)?;
    Ok([count as f64, top1 as f64, top5 as f64, loss.f_double_value(&[])?])
}

/// Evaluates this rank's shard and sums over ranks. `quantize` says whether the network's quantizers are in
/// force; they then need their ranges. `rounds` are the batches of the rank that has most; before each, the ranks
/// agree whether to stop, which `asked` says for this one: then there is no result.
pub fn evaluate(
    program: &Program,
    mut loader: EvalLoader,
    rounds: usize,
    quantize: bool,
    asked: &dyn Fn() -> bool,
) -> Result<Option<EvalResult>, TrainError> {
    let (executor, weights, collective) = (program.executor(), &program.weights, program.collective());
    let _guard = tch::no_grad_guard();
    if quantize {
        executor.ensure_ranges(weights)?;
    }
    let prepared = Prepared::new(executor.graph(), weights, quantize, false)?;
    let mut record = Record::new(&weights.layout, weights.device())?;
    let mode = Mode { quantize, ..Mode::EVAL };
    let mut sums = [0.0f64; 5];
    for _ in 0..rounds {
        if program.agree_to_stop(asked())? {
            return Ok(None);
        }
        let Some(batch) = loader.next()? else { continue };
        sums[4] += batch.corrupt as f64;
        if batch.labels.size()[0] == 0 {
            continue;
        }
        let images = batch.images.f_to_device(weights.device())?;
        let labels = batch.labels.f_to_device(weights.device())?;
        let logits = executor.forward(&images, &prepared, weights, mode, &mut record, None)?;
        for (sum, x) in sums.iter_mut().zip(score(&logits, &labels)?) {
            *sum += x;
        }
    }
    let all = Tensor::f_from_slice(&sums)?.f_to_device(weights.device())?;
    collective.all_reduce(&all, ReduceOp::Sum)?;
    let [images, top1, top5, loss, corrupt] = Vec::<f64>::try_from(&all.f_to_device(Device::Cpu)?)?[..]
    else {
        unreachable!("five sums")
    };
    if images == 0.0 {
        return Err(TrainError::NothingToEvaluate);
    }
    let percent = |hits: f64| 100.0 * hits / images;
    Ok(Some(EvalResult {
        top1: percent(top1),
        top5: percent(top5),
        loss: loss / images,
        images: images as u64,
        corrupt: corrupt as u64,
    }))
}
