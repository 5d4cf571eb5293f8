//! Ranges of a network that was trained without quantization, as `octrain quantize` would find them.

use super::AnalyzeError;
use super::finite::ensure_finite;
use crate::data::EvalLoader;
use crate::exec::{Counts, Evaluator, Executor, Mode, Record, Weights, calibrated};
use crate::graph::{Graph, Node, Op};
use crate::quant::observer::{RangeObserver, RecipeObserver};
use std::sync::Arc;
use tch::Tensor;

/// Hands the microbatches of `loader` to `take`. Returns the images seen.
fn each(
    mut loader: EvalLoader,
    mut take: impl FnMut(&Tensor) -> Result<(), AnalyzeError>,
) -> Result<u64, AnalyzeError> {
    let mut images = 0;
    while let Some(batch) = loader.next()? {
        let count = batch.labels.size()[0];
        if count > 0 {
            images += count as u64;
            take(&batch.images)?;
        }
    }
    match images {
        0 => Err(AnalyzeError::NoImages { set: "training" }),
        images => Ok(images),
    }
}

/// Sets the ranges of `weights` that are not known as `observer` says, from microbatches of training images; `loader` begins
/// them anew. Returns how many ranges were set and on how many images; `None` when all are known.
pub(super) fn calibrate(
    graph: &Graph,
    weights: &Weights,
    observer: RecipeObserver,
    mut loader: impl FnMut() -> Result<EvalLoader, AnalyzeError>,
) -> Result<Option<(usize, u64)>, AnalyzeError> {
    let _guard = tch::no_grad_guard();
    let (known, layout) = (weights.ranges_host()?, &weights.layout);
    let unknown = known.iter().filter(|range| range.is_none()).count();
    if unknown == 0 {
        return Ok(None);
    }
    let executor = Arc::new(Executor::new(graph.clone(), weights)?);
    let network = Evaluator::new(executor, weights, Mode::CALIBRATE)?;
    let mut record = Record::new(layout, weights.device())?;
    let mut maxima = vec![Vec::new(); known.len()];
    let images = each(loader()?, |images| {
        record.clear()?;
        let mut failed = None;
        let mut watch = |node: &Node, value: &Tensor| {
            // What is not finite is told by the layer that makes it, not by who observes it.
            if failed.is_none() && !matches!(node.op, Op::Quantize(_)) {
                failed = ensure_finite(&node.name, value, "training").err();
            }
        };
        let _ = network.recorded(images, &mut record, Some(&mut watch))?;
        if let Some(e) = failed {
            return Err(e);
        }
        let row = Record::host_maxima(&record.maxima, layout)?;
        row.into_iter().zip(&mut maxima).for_each(|(x, seen)| seen.push(x));
        Ok(())
    })?;
    let histograms = match observer.wants_histogram() {
        true => {
            let mut counts = Counts::new(&maxima)?;
            each(loader()?, |images| Ok(counts.add(&network, layout, images)?))?;
            counts.histograms()?
        }
        false => Vec::new(),
    };
    let ranges = calibrated(&observer, &layout.schemes, &known, &maxima, &histograms);
    for (i, range) in ranges.into_iter().enumerate() {
        if let Some(range) = range {
            let _ = weights.ranges.get(i as i64).f_fill_(f64::from(range))?;
        }
    }
    Ok(Some((unknown, images)))
}
