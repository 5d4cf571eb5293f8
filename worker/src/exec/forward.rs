//! Running a graph forward.

use super::chains::{self, Chain};
use super::integer::{self, Integers};
use super::ops::{self, Call};
use super::{ExecError, Prepared, Record, Weights, fused};
use crate::graph::{Graph, Layout, Node, NodeId, Op};
use crate::native::Codes;
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
    /// Layers whose weight and input are quantized compute their forward on INT8 codes, on CPUs whose products of them are exact
    /// ([`crate::native::int8_products`]).
    pub int8: bool,
}

impl Mode {
    /// Evaluation: running statistics, frozen ranges.
    pub const EVAL: Mode = Mode {
        batch_stats: false,
        quantize: true,
        observe: false,
        unclipped: false,
        draws: None,
        int8: false,
    };
    /// Whether layers compute on INT8 codes, which there are of what is quantized.
    pub(super) const fn encodes(&self) -> bool {
        self.int8 && self.quantize
    }

    /// Evaluation of the network with its quantizers in force, or of the floating-point network.
    pub const fn evaluation(quantize: bool) -> Mode {
        Mode { quantize, ..Self::EVAL }
    }

    /// Calibration of a network that is deployed as it is: in floating point, by the running statistics, observed.
    pub const CALIBRATE: Mode = Mode { quantize: false, observe: true, ..Self::EVAL };

    /// Whether it is calibration before training, by each microbatch's statistics.
    fn calibrates_by_batch(self) -> bool {
        self.batch_stats && self.observe && !self.quantize
    }
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

impl Pass<'_> {
    /// A running statistic, or, where the batch's own are taken, the room for it.
    pub(super) fn statistic(&self, buffer: usize) -> Result<Tensor, tch::TchError> {
        if self.mode.batch_stats {
            return Ok(self.record.scratch[buffer].shallow_clone());
        }
        let s = &self.weights.layout.buffers[buffer];
        self.weights.buffers.f_narrow(0, s.offset, s.len)
    }
}

/// Sees every node's value as it is made.
pub type Watch<'a> = dyn FnMut(&Node, &Tensor) + 'a;

/// A graph ready to run.
pub struct Executor {
    graph: Graph,
    steps: Vec<Step>,
    integers: Integers,
    /// Every node by itself, in order.
    apart: Schedule,
    /// Neighbours as one where they can be: the same values, rounded less often.
    fused: Schedule,
    /// Every node by itself, and BatchNorm as neighbours as one have it: to the bits of their statistics.
    counted: Schedule,
}

/// What runs one after the other.
struct Schedule(Vec<Turn>);

struct Turn {
    what: What,
    /// Whether it is a chain whose value two later turns read.
    twice: bool,
    /// Values made for two, of which it is the first reader.
    passes_on: Vec<NodeId>,
    /// Values that nobody reads after it.
    frees: Vec<NodeId>,
}

enum What {
    Node(NodeId),
    Chain(Chain),
}

impl What {
    fn reads(&self, graph: &Graph) -> Vec<NodeId> {
        match self {
            What::Node(id) => graph.node(*id).inputs.clone(),
            What::Chain(chain) => std::iter::once(chain.input).chain(chain.residual).collect(),
        }
    }
}

impl Schedule {
    /// A chain runs where its last node stands, where all it reads is there.
    fn new(graph: &Graph, chains: Vec<Chain>) -> Self {
        let mut inside = vec![false; graph.nodes.len()];
        chains.iter().flat_map(|c| &c.nodes).for_each(|n| inside[n.0] = true);
        let mut ends: Vec<Option<Chain>> = graph.nodes.iter().map(|_| None).collect();
        chains.into_iter().for_each(|chain| {
            let last = chain.last.0;
            ends[last] = Some(chain);
        });
        let whats = graph.iter().zip(ends).filter_map(|((id, _), end)| match end {
            Some(chain) => Some(What::Chain(chain)),
            None => (!inside[id.0]).then_some(What::Node(id)),
        });
        let turn = |what| Turn { what, twice: false, passes_on: vec![], frees: vec![] };
        let mut turns: Vec<Turn> = whats.map(turn).collect();
        Self::hand_out(graph, &mut turns);
        let mut read_later = vec![false; graph.nodes.len()];
        read_later[graph.output.0] = true;
        for turn in turns.iter_mut().rev() {
            for id in turn.what.reads(graph) {
                if !std::mem::replace(&mut read_later[id.0], true) {
                    turn.frees.push(id);
                }
            }
        }
        Self(turns)
    }

    /// Finds the values of chains with a normalisation that two turns read.
    fn hand_out(graph: &Graph, turns: &mut [Turn]) {
        let mut readers: Vec<Vec<usize>> = vec![vec![]; graph.nodes.len()];
        for (turn, of) in turns.iter().enumerate() {
            of.what.reads(graph).iter().for_each(|id| readers[id.0].push(turn));
        }
        for turn in 0..turns.len() {
            // Without a normalisation a chain's backward reads its gradient once, so that adding another is a pass of its own.
            let What::Chain(Chain { last, norm: Some(_), .. }) = turns[turn].what else { continue };
            match readers[last.0][..] {
                [first, second] if first != second && last != graph.output => {
                    turns[turn].twice = true;
                    turns[first].passes_on.push(last);
                }
                _ => (),
            }
        }
    }
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
        for (_, node) in graph.iter() {
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
        let [apart, fused, counted] =
            [vec![], chains::find(&graph), chains::norms(&graph)].map(|chains| Schedule::new(&graph, chains));
        let integers = Integers::new(&graph);
        Ok(Self { graph, steps, integers, apart, fused, counted })
    }

    /// The graph it runs.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// How many layers can compute the forward of a microbatch of `batch` images on INT8 codes ([`Mode::int8`]), and the names of the
    /// others with why they cannot.
    pub fn int8_layers(&self, batch: i64) -> (usize, Vec<(String, String)>) {
        integer::layers(&self.graph, batch)
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
    /// be differentiated by the leaves of what was prepared. Neighbours run as one, unless somebody watches.
    pub fn forward(
        &self,
        images: &Tensor,
        mut pass: Pass,
        mut watch: Option<&mut Watch>,
    ) -> Result<Tensor, ExecError> {
        let none = || self.graph.nodes.iter().map(|_| None).collect();
        let (mut values, mut seconds): (Vec<Option<Tensor>>, Vec<Option<Tensor>>) = (none(), none());
        let mut codes: Vec<Option<Codes>> = self.graph.nodes.iter().map(|_| None).collect();
        let batch = images.size().first().copied().unwrap_or(0);
        let schedule = match (&watch, pass.mode.calibrates_by_batch()) {
            (None, _) => &self.fused,
            // What is counted is what was observed, whose statistics do not depend on the number of threads.
            (Some(_), true) => &self.counted,
            (Some(_), false) => &self.apart,
        };
        for turn in &schedule.0 {
            let held = |i: &NodeId| values[i.0].as_ref().expect("still held: last use is later");
            let (id, value) = match &turn.what {
                What::Chain(chain) => {
                    let residual = chain.residual.as_ref().map(held);
                    let x = held(&chain.input);
                    let of = fused::Of {
                        chain,
                        twice: turn.twice,
                        encodes: pass.mode.encodes() && self.integers.wants(chain.last, batch),
                    };
                    let (value, second, made) = fused::run(&self.graph, &self.steps, of, x, residual, &pass)?;
                    seconds[chain.last.0] = second;
                    codes[chain.last.0] = made;
                    // Where somebody watches it is of one node.
                    if let Some(watch) = watch.as_deref_mut() {
                        watch(self.graph.node(chain.last), &value);
                    }
                    (chain.last, value)
                }
                What::Node(id) => {
                    let (node, step) = (self.graph.node(*id), &self.steps[id.0]);
                    let inputs: Vec<&Tensor> = match node.op {
                        Op::Input => vec![images],
                        _ => node.inputs.iter().map(held).collect(),
                    };
                    let may_overwrite = step.may_overwrite && watch.is_none();
                    if pass.mode.encodes() && self.integers.wants(*id, batch) {
                        let before = node.inputs.first().and_then(|i| codes[i.0].as_ref());
                        codes[id.0] = integer::codes(node, inputs[0], before, step.quantizer, pass.prepared)?;
                    }
                    let computes = pass.mode.encodes() && self.integers.computes(*id, batch);
                    let encoded = computes.then(|| node.inputs.first().and_then(|i| codes[i.0].as_ref()));
                    let mut call = Call::new((*id, node), &inputs, (step, encoded), may_overwrite, &mut pass);
                    let value = ops::of(node)?.forward(&mut call).map_err(|e| e.at(&node.name))?;
                    if let Some(watch) = watch.as_deref_mut() {
                        watch(node, &value);
                    }
                    (*id, value)
                }
            };
            values[id.0] = Some(value);
            for id in &turn.passes_on {
                if let Some(second) = seconds[id.0].take() {
                    values[id.0] = Some(second);
                }
            }
            for id in &turn.frees {
                (values[id.0], codes[id.0]) = (None, None);
            }
        }
        Ok(values[self.graph.output.0].take().expect("the output is made last"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;

    #[test]
    fn what_a_block_makes_is_handed_out_to_the_next_one_s_two_readers() {
        let mut graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        graph.layout = Layout::Nhwc;
        let schedule = Schedule::new(&graph, chains::find(&graph));
        let name = |id: &NodeId| graph.node(*id).name.as_str();
        let twice: Vec<&str> = schedule
            .0
            .iter()
            .filter(|t| t.twice)
            .map(|t| match &t.what {
                What::Chain(chain) => name(&chain.last),
                What::Node(id) => name(id),
            })
            .collect();
        let blocks = (1..=3).flat_map(|layer| (0..3).map(move |block| format!("layer{layer}.{block}.relu")));
        let mut expected = vec!["bn1.relu".to_string()];
        expected.extend(blocks.take(8));
        assert_eq!(twice, expected, "the last block's is read once");
        // The first reader passes on what the second one frees.
        for id in schedule.0.iter().flat_map(|t| &t.passes_on) {
            let passes = schedule.0.iter().position(|t| t.passes_on.contains(id)).unwrap();
            let frees = schedule.0.iter().position(|t| t.frees.contains(id)).unwrap();
            assert!(passes < frees && twice.contains(&name(id)), "{}", name(id));
        }
        let apart = Schedule::new(&graph, vec![]);
        assert!(apart.0.iter().all(|t| !t.twice && t.passes_on.is_empty()));
    }
}
