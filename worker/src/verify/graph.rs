//! A checkpoint's training graph in evaluation mode, in FP32 arithmetic: what the integers of an engine should give.

use crate::checkpoint::State;
use crate::exec::{ExecError, Executor, Mode, Prepared, Record, Weights};
use crate::graph::{Graph, Op};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Tensor};

/// A network ready to evaluate.
pub struct TrainedGraph {
    executor: Executor,
    weights: Weights,
    prepared: Prepared,
    quantize: bool,
}

impl TrainedGraph {
    /// From a graph that has gone through the pass list (BatchNorm not folded) and a checkpoint's numbers.
    pub fn new(graph: Graph, state: &State, quantize: bool) -> Result<Self, ExecError> {
        let _guard = tch::no_grad_guard();
        let mut weights = Weights::zeros(&graph, false, Device::Cpu)?;
        if let Some(name) = weights.load(state)?.into_iter().next() {
            return Err(ExecError::State {
                name,
                what: "is not in the checkpoint in the shape of this network".into(),
            });
        }
        let executor = Executor::new(graph, &weights)?;
        if quantize {
            executor.ensure_ranges(&weights)?;
        }
        let prepared = Prepared::new(executor.graph(), &weights, quantize, false)?;
        Ok(Self { executor, weights, prepared, quantize })
    }

    /// Logits `[b, classes]` of images `[b, C, H, W]`.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor, ExecError> {
        let _guard = tch::no_grad_guard();
        let mode = Mode { quantize: self.quantize, ..Mode::EVAL };
        let mut record = Record::new(&self.weights.layout, Device::Cpu)?;
        self.executor.forward(images, &self.prepared, &self.weights, mode, &mut record, None)
    }

    /// The graph it runs.
    pub fn graph(&self) -> &Graph {
        self.executor.graph()
    }

    /// Logits, and the values of these names `[b, ...]`, contiguous: what a quantizer of that name makes, else what
    /// the node does.
    pub fn values(
        &self,
        images: &Tensor,
        names: &BTreeSet<String>,
    ) -> Result<(Tensor, BTreeMap<String, Tensor>), ExecError> {
        let _guard = tch::no_grad_guard();
        let mode = Mode { quantize: self.quantize, ..Mode::EVAL };
        let mut record = Record::new(&self.weights.layout, Device::Cpu)?;
        let mut values = BTreeMap::new();
        let mut watch = |node: &crate::graph::Node, value: &Tensor| {
            let name = match &node.op {
                Op::Quantize(q) if q.active => &q.name,
                Op::Quantize(_) => return,
                _ => &node.name,
            };
            if names.contains(name) {
                values.insert(name.clone(), value.contiguous());
            }
        };
        let logits = self.executor.forward(
            images,
            &self.prepared,
            &self.weights,
            mode,
            &mut record,
            Some(&mut watch),
        )?;
        Ok((logits, values))
    }
}
