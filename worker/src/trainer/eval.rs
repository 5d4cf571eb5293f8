//! Evaluation: sums over all ranks, every image counted exactly once.

use super::TrainError;
use crate::collective::ReduceOp;
use crate::data::EvalLoader;
use crate::exec::Evaluator;
use crate::optim::Program;
use serde::Serialize;
use tch::{Device, Kind, Reduction, Tensor};

/// Result of an evaluation over all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
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

/// Images of one class in an evaluation, over all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassCount {
    /// Images counted.
    pub images: u64,
    /// Those whose best class is right.
    pub right: u64,
}

/// What is summed over all ranks besides the counts of classes.
const SUMS: usize = 5;

/// Adds one batch to `[images, top-1, top-5, loss, corrupt]`, and to the images and the right ones of each class behind
/// them, as exact 64-bit sums.
fn add_scores(sums: &mut [f64], logits: &Tensor, labels: &Tensor) -> Result<(), tch::TchError> {
    let (count, classes) = logits.size2()?;
    let (_, best) = logits.f_topk(classes.min(5), 1, true, true)?;
    let hits = best.f_eq_tensor(&labels.f_unsqueeze(1)?)?;
    let top1 = hits.f_narrow(1, 0, 1)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    let top5 = hits.f_sum(Kind::Int64)?.f_int64_value(&[])?;
    let loss = logits.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Sum, -100, 0.0)?;
    for (sum, x) in sums.iter_mut().zip([count as f64, top1 as f64, top5 as f64, loss.f_double_value(&[])?]) {
        *sum += x;
    }
    let host =
        |t: &Tensor| Vec::<i64>::try_from(t.f_to_kind(Kind::Int64)?.f_to_device(Device::Cpu)?.f_view([-1])?);
    let right = host(&hits.f_narrow(1, 0, 1)?)?;
    for (&label, right) in host(labels)?.iter().zip(right) {
        let at = SUMS + 2 * label as usize;
        sums[at] += 1.0;
        sums[at + 1] += right as f64;
    }
    Ok(())
}

/// Evaluates `network`, one of `program`'s, on this rank's shard and sums over ranks, all images and those of each of the
/// `classes`. `rounds` are the batches of the rank that has most; before each, the ranks
/// agree whether to stop, which `asked` says for this one: then there is no result.
pub fn evaluate(
    program: &Program,
    network: &Evaluator,
    mut loader: EvalLoader,
    rounds: usize,
    classes: usize,
    asked: &dyn Fn() -> bool,
) -> Result<Option<(EvalResult, Vec<ClassCount>)>, TrainError> {
    let device = program.device();
    let _guard = tch::no_grad_guard();
    let mut sums = vec![0.0f64; SUMS + 2 * classes];
    for _ in 0..rounds {
        if program.agree_to_stop(asked())? {
            return Ok(None);
        }
        let Some(batch) = loader.next()? else { continue };
        sums[4] += batch.corrupt as f64;
        if batch.labels.size()[0] == 0 {
            continue;
        }
        let logits = network.logits(&batch.images)?;
        add_scores(&mut sums, &logits, &batch.labels.f_to_device(device)?)?;
    }
    let all = Tensor::f_from_slice(&sums)?.f_to_device(device)?;
    program.collective().all_reduce(&all, ReduceOp::Sum)?;
    let all = Vec::<f64>::try_from(&all.f_to_device(Device::Cpu)?)?;
    let [images, top1, top5, loss, corrupt, counts @ ..] = &all[..] else { unreachable!("five sums") };
    let (images, top1, top5, loss, corrupt) = (*images, *top1, *top5, *loss, *corrupt);
    let counts = counts.chunks(2).map(|c| ClassCount { images: c[0] as u64, right: c[1] as u64 }).collect();
    if images == 0.0 {
        return Err(TrainError::NothingToEvaluate);
    }
    let percent = |hits: f64| 100.0 * hits / images;
    let result = EvalResult {
        top1: percent(top1),
        top5: percent(top5),
        loss: loss / images,
        images: images as u64,
        corrupt: corrupt as u64,
    };
    Ok(Some((result, counts)))
}
