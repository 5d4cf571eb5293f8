//! Running a graph forward.

use super::ops::{self, Call};
use super::{ExecError, Prepared, Record, Weights};
use crate::graph::{Graph, Layout, Node, NodeId, Op};
use tch::Tensor;

/// How a graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// BatchNorm normalises with the batch's statistics and records them (else with the running ones).
    pub batch_stats: bool,
    /// Active quantizers fake-quantize.
    pub quantize: bool,
    /// Quantizers record what they see.
    pub observe: bool,
    /// Gradients pass where values were clipped too (unclipped straight-through).
    pub unclipped: bool,
    /// Key of what is left out at random (dropout, stochastic depth); `None`: nothing is.
    pub draws: Option<u64>,
}

impl Mode {
    /// Evaluation: running statistics, frozen ranges.
    pub const EVAL: Mode =
        Mode { batch_stats: false, quantize: true, observe: false, unclipped: false, draws: None };
    /// Evaluation of the network with its quantizers in force, or of the floating-point network.
    pub const fn evaluation(quantize: bool) -> Mode {
        Mode { quantize, ..Self::EVAL }
    }

    /// Calibration: the floating-point network in evaluation, observed.
    pub const CALIBRATE: Mode = Mode { quantize: false, observe: true, ..Self::EVAL };
}

/// What a graph runs with, besides its images.
pub struct Pass<'a> {
    /// The trainable parameters and scales as they are used.
    pub prepared: &'a Prepared,
    /// Running statistics, and where everything lies.
    pub weights: &'a Weights,
    /// How it runs.
    pub mode: Mode,
    /// Takes what is observed.
    pub record: &'a mut Record,
}

/// Sees every node's value as it is made.
pub type Watch<'a> = dyn FnMut(&Node, &Tensor) + 'a;

/// A graph ready to run.
pub struct Executor {
    graph: Graph,
    /// Index of the last reader of every value.
    last_use: Vec<usize>,
    steps: Vec<Step>,
}

/// What of a node is resolved once: indices of its numbers.
#[derive(Clone, Default)]
pub(super) struct Step {
    /// Trainable parameters, in the order of `Op::params`.
    pub(super) leaves: Vec<usize>,
    /// The others, among the buffers, in that order.
    pub(super) buffers: Vec<usize>,
    /// Index of the quantizer.
    pub(super) quantizer: Option<usize>,
    /// Whether the first value it reads is nobody else's.
    pub(super) may_overwrite: bool,
    /// Memory order of the graph's four-dimensional values.
    pub(super) layout: Layout,
}

impl Executor {
    /// Resolves names to indices. The weights must have been made for the same parameters and quantizers.
    pub fn new(graph: Graph, weights: &Weights) -> Result<Self, ExecError> {
        let unknown =
            |name: &str| ExecError::State { name: name.into(), what: "is not among the weights".into() };
        let buffer = |name: &str| {
            weights.layout.buffers.iter().position(|s| s.name == name).ok_or_else(|| unknown(name))
        };
        let consumers = graph.consumers();
        let mut steps = Vec::with_capacity(graph.nodes.len());
        let mut last_use: Vec<usize> = (0..graph.nodes.len()).collect();
        for (id, node) in graph.iter() {
            node.inputs.iter().for_each(|i| last_use[i.0] = id.0);
            ops::of(node)?;
            if node.op.layer().is_some_and(|layer| layer.folded.is_some()) {
                let what = "belongs to a layer with a folded BatchNorm, which is for export only".into();
                return Err(ExecError::State { name: node.name.clone(), what });
            }
            let mut step = Step {
                quantizer: match &node.op {
                    Op::Quantize(q) => {
                        let found = weights.layout.quantizer_index(&q.name);
                        Some(found.ok_or_else(|| unknown(&q.name))?)
                    }
                    _ => None,
                },
                may_overwrite: match node.inputs.first() {
                    Some(i) => consumers[i.0].len() == 1 && ops::of(graph.node(*i))?.value_is_free(),
                    None => false,
                },
                layout: graph.layout,
                ..Step::default()
            };
            for name in node.op.params() {
                match weights.layout.trainable_index(name) {
                    Some(leaf) => step.leaves.push(leaf),
                    None => step.buffers.push(buffer(name)?),
                }
            }
            steps.push(step);
        }
        last_use[graph.output.0] = usize::MAX;
        Ok(Self { graph, last_use, steps })
    }

    /// The graph it runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Whether every active quantizer has a range; the first that has none is the error.
    pub fn ensure_ranges(&self, weights: &Weights) -> Result<(), ExecError> {
        let ranges = weights.ranges_host()?;
        for (_, q) in self.graph.quantizers().filter(|(_, q)| q.active) {
            let i = weights.layout.quantizer_index(&q.name);
            if i.is_none_or(|i| ranges[i].is_none()) {
                return Err(ExecError::NoRange(q.name.clone()));
            }
        }
        Ok(())
    }

    /// Runs images `[b, C, H, W]` (FP32) to logits `[b, classes]` (FP32). With gradients enabled the result can
    /// be differentiated by the leaves of what was prepared.
    pub fn forward(
        &self,
        images: &Tensor,
        mut pass: Pass,
        mut watch: Option<&mut Watch>,
    ) -> Result<Tensor, ExecError> {
        let mut values: Vec<Option<Tensor>> = vec![];
        values.resize_with(self.graph.nodes.len(), || None);
        for (id, node) in self.graph.iter() {
            let step = &self.steps[id.0];
            let held = |i: &NodeId| values[i.0].as_ref().expect("still held: last use is later");
            let inputs: Vec<&Tensor> = match node.op {
                Op::Input => vec![images],
                _ => node.inputs.iter().map(held).collect(),
            };
            let may_overwrite = step.may_overwrite && watch.is_none();
            let mut call = Call::new((id, node), &inputs, step, may_overwrite, &mut pass);
            let value = ops::of(node)?.forward(&mut call).map_err(|e| e.at(&node.name))?;
            if let Some(watch) = watch.as_deref_mut() {
                watch(node, &value);
            }
            values[id.0] = Some(value);
            for input in &node.inputs {
                if self.last_use[input.0] == id.0 {
                    values[input.0] = None;
                }
            }
        }
        Ok(values[self.graph.output.0].take().expect("the output is made last"))
    }
}
