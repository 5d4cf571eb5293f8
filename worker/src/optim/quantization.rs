//! What a program keeps of quantization from step to step, besides the ranges: who moves them, and whether BatchNorm's
//! statistics are those that the recipe wants.

use super::OptimError;
use crate::exec::{Record, Weights};
use crate::quant::observer::{RangeObserver, RecipeObserver};
use crate::strategy::{Phase, Strategy};
use std::sync::Arc;
use tch::Tensor;

/// The state of quantization; without a recipe it is empty.
#[derive(Default)]
pub(super) struct Quantization {
    /// Moves the ranges; none without quantization.
    pub observer: Option<Arc<dyn RangeObserver>>,
    /// The step before which BatchNorm's statistics were estimated anew last.
    pub estimated: Option<u64>,
}

impl Quantization {
    /// For a strategy, with an observer of the user's own, if any.
    pub fn new(strategy: &Strategy, own: Option<Arc<dyn RangeObserver>>) -> Result<Self, OptimError> {
        if own.is_some() && strategy.qat.is_none() {
            return Err(OptimError::ObserverWithoutQat);
        }
        let recipe = |qat| Arc::new(RecipeObserver::from(qat)) as Arc<dyn RangeObserver>;
        let observer = strategy.qat.as_ref().map(|qat| own.unwrap_or_else(|| recipe(qat)));
        Ok(Self { observer, estimated: None })
    }

    /// What step `step` of a training of `total` steps does.
    pub fn phase(&self, strategy: &Strategy, step: u64, total: u64) -> Phase {
        match (&strategy.qat, &self.observer) {
            (Some(q), Some(o)) => q.phase(step, total, o.holds()),
            _ => Phase { observe: false, batch_stats: true },
        }
    }

    /// What [`Self::moved`] wants to know of a step: nothing where no observer moves ranges.
    pub fn wanted(&self, weights: &Weights, record: &Record) -> Vec<Tensor> {
        let of = || vec![record.maxima.shallow_clone(), weights.ranges.shallow_clone()];
        self.observer.as_ref().map_or_else(Vec::new, |_| of())
    }

    /// The ranges after a step of which `read` has what is [wanted](Self::wanted), on the host; none where no observer moves
    /// them.
    pub fn moved(&self, weights: &Weights, read: &[f32]) -> Result<Option<Tensor>, OptimError> {
        let Some(observer) = &self.observer else { return Ok(None) };
        let names = &weights.layout.quantizers;
        let (maxima, old) = read.split_at(2 * names.len());
        let seen = Record::finite_maxima(maxima, &weights.layout)?;
        let moved = |(&old, seen): (&f32, f32)| if old >= 0.0 { observer.moved(old, seen) } else { seen };
        let new: Vec<f32> = old.iter().zip(seen).map(moved).collect();
        names.iter().zip(&new).try_for_each(|(name, &range)| OptimError::check_range(name, range))?;
        Ok(Some(Tensor::f_from_slice(&new)?))
    }
}
