//! A network that runs without gradients: for evaluation, calibration, verification, analysis and a teacher's logits.

use super::{ExecError, Executor, Mode, Pass, Prepared, Record, Watch, Weights};
use crate::checkpoint::State;
use crate::graph::Graph;
use std::sync::Arc;
use tch::{Device, Tensor};

/// A network with its numbers, ready to run in one mode.
pub struct Evaluator {
    executor: Arc<Executor>,
    weights: Weights,
    prepared: Prepared,
    mode: Mode,
}

impl Evaluator {
    /// From the numbers that `weights` hold now. They are prepared once, and shared, not copied: the evaluator is to be
    /// done with before they change.
    ///
    /// # Errors
    /// When the mode quantizes and a range is not known.
    pub fn new(executor: Arc<Executor>, weights: &Weights, mode: Mode) -> Result<Self, ExecError> {
        let _guard = tch::no_grad_guard();
        if mode.quantize {
            executor.ensure_ranges(weights)?;
        }
        let prepared = Prepared::new(executor.graph(), weights, mode, false)?;
        Ok(Self { executor, weights: weights.shared(), prepared, mode })
    }

    /// From a graph that has gone through the pass list, unfolded, and a checkpoint's numbers, on `device`.
    ///
    /// # Errors
    /// When the checkpoint lacks one of the network's, besides those of [`Self::new`].
    pub fn of_state(graph: Graph, state: &State, mode: Mode, device: Device) -> Result<Self, ExecError> {
        let weights = Weights::of_state(&graph, state, device)?;
        Self::new(Arc::new(Executor::new(graph, &weights)?), &weights, mode)
    }

    /// The graph it runs.
    pub fn graph(&self) -> &Graph {
        self.executor.graph()
    }

    /// Logits `[b, classes]` of images `[b, C, H, W]` (FP32, of any device), both on the device of its weights.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor, ExecError> {
        self.watched(images, None)
    }

    /// [`Self::logits`]; `watch` sees every node's value.
    pub fn watched(&self, images: &Tensor, watch: Option<&mut Watch>) -> Result<Tensor, ExecError> {
        let mut record = Record::new(&self.weights.layout, self.weights.device())?;
        self.recorded(images, &mut record, watch)
    }

    /// [`Self::watched`], where what the mode observes goes to `record`.
    pub fn recorded(
        &self,
        images: &Tensor,
        record: &mut Record,
        watch: Option<&mut Watch>,
    ) -> Result<Tensor, ExecError> {
        let _guard = tch::no_grad_guard();
        let images = images.f_to_device(self.weights.device())?;
        let (prepared, weights, mode) = (&self.prepared, &self.weights, self.mode);
        self.executor.forward(&images, Pass { prepared, weights, mode, record }, watch)
    }
}
