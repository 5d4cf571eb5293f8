//! One network of an analysis, ready to run on the weights that all of them share.

use super::AnalyzeError;
use crate::exec::{ExecError, Executor, Mode, Prepared, Record, Watch, Weights};
use crate::graph::Graph;
use crate::native;
use tch::{Device, Tensor};

/// A graph in evaluation mode, in floating point or with what is active in it quantized.
pub(super) struct Variant {
    executor: Executor,
    prepared: Prepared,
    quantize: bool,
}

impl Variant {
    /// `weights` must have been made for the same parameters and at least the graph's quantizers.
    pub(super) fn new(graph: Graph, weights: &Weights, quantize: bool) -> Result<Self, ExecError> {
        let executor = Executor::new(graph, weights)?;
        if quantize {
            executor.ensure_ranges(weights)?;
        }
        let prepared = Prepared::new(executor.graph(), weights, quantize, false)?;
        Ok(Self { executor, prepared, quantize })
    }

    /// Logits `[b, classes]`; `watch` sees every node's value.
    pub(super) fn run(
        &self,
        images: &Tensor,
        weights: &Weights,
        watch: Option<&mut Watch>,
    ) -> Result<Tensor, ExecError> {
        let mode = Mode { quantize: self.quantize, ..Mode::EVAL };
        let mut record = Record::new(&weights.layout, Device::Cpu)?;
        self.executor.forward(images, &self.prepared, weights, mode, &mut record, watch)
    }
}

/// An error that names `layer` if a value holds NaN or infinity.
pub(super) fn ensure_finite(layer: &str, value: &Tensor, set: &'static str) -> Result<(), AnalyzeError> {
    let seen = Vec::<f32>::try_from(&native::abs_max(value)?)?;
    match seen[..] {
        [_, count] if count > 0.0 => {
            Err(AnalyzeError::NonFinite { layer: layer.into(), count: count as u64, set })
        }
        _ => Ok(()),
    }
}
