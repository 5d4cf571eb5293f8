//! Ranges of a network that was trained without quantization, as `octrain train --qat` would begin with.

use super::AnalyzeError;
use super::finite::ensure_finite;
use crate::data::EvalLoader;
use crate::exec::{Evaluator, Executor, Mode, Weights};
use crate::graph::{Graph, Node, Op};
use crate::quant::histogram::{BINS, Histogram};
use crate::quant::observer::{RangeObserver, RecipeObserver};
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Runs the floating-point network on training images and hands every quantizer's values to `take`. Returns the
/// images seen.
fn watch_quantizers(
    network: &Evaluator,
    mut loader: EvalLoader,
    mut take: impl FnMut(&str, &Tensor) -> Result<(), AnalyzeError>,
) -> Result<u64, AnalyzeError> {
    let mut images = 0;
    while let Some(batch) = loader.next()? {
        let count = batch.labels.size()[0];
        if count == 0 {
            continue;
        }
        images += count as u64;
        let mut failed = None;
        let mut watch = |node: &Node, value: &Tensor| {
            if failed.is_some() {
                return;
            }
            let done = match &node.op {
                Op::Quantize(q) => take(&q.name, value),
                _ => ensure_finite(&node.name, value, "training"),
            };
            failed = done.err();
        };
        let _ = network.watched(&batch.images, Some(&mut watch))?;
        if let Some(e) = failed {
            return Err(e);
        }
    }
    if images == 0 {
        return Err(AnalyzeError::NoImages { set: "training" });
    }
    Ok(images)
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
    let names = weights.layout.quantizers.iter();
    let unknown: Vec<(usize, String)> = names
        .zip(weights.ranges_host()?)
        .enumerate()
        .filter(|(_, (_, range))| range.is_none())
        .map(|(i, (name, _))| (i, name.clone()))
        .collect();
    if unknown.is_empty() {
        return Ok(None);
    }
    let executor = Arc::new(Executor::new(graph.clone(), weights)?);
    let network = Evaluator::new(executor, weights, Mode::evaluation(false))?;
    let mut maxima: BTreeMap<String, Vec<f32>> =
        unknown.iter().map(|(_, name)| (name.clone(), Vec::new())).collect();
    let images = watch_quantizers(&network, loader()?, |name, value| {
        if let Some(seen) = maxima.get_mut(name) {
            seen.push(value.f_abs()?.f_max()?.f_double_value(&[])? as f32);
        }
        Ok(())
    })?;
    let mut histograms = BTreeMap::new();
    if observer.wants_histogram() {
        let flat = |seen: &Vec<f32>| {
            let absmax = seen.iter().copied().fold(0.0, f32::max);
            Histogram { absmax, zeros: 0, counts: vec![0; BINS] }
        };
        histograms = maxima.iter().map(|(name, seen)| (name.clone(), flat(seen))).collect();
        watch_quantizers(&network, loader()?, |name, value| {
            if let Some(sum) = histograms.get_mut(name) {
                let values =
                    Vec::<f32>::try_from(&value.f_to_kind(Kind::Float)?.f_contiguous()?.f_view([-1])?)?;
                let own = Histogram::of(&values, sum.absmax);
                sum.zeros += own.zeros;
                sum.counts.iter_mut().zip(own.counts).for_each(|(s, c)| *s += c);
            }
            Ok(())
        })?;
    }
    for (i, name) in &unknown {
        if !maxima[name].is_empty() {
            let range = observer.calibrated(&maxima[name], &mut || histograms[name].clone());
            let _ = weights.ranges.get(*i as i64).f_fill_(f64::from(range))?;
        }
    }
    Ok(Some((unknown.len(), images)))
}
