//! The passes there are, their order, and passes of one's own among them.

use super::{
    amp_cast, decide, drop_dead, fold_batch_norm, memory_layout, observe_superset, quantize_activations,
    quantize_weights,
};
use crate::graph::{Graph, GraphError, NetworkFacts};
use crate::strategy::{Purpose, Strategy, choice};
use std::sync::Arc;

choice! {
    /// Octrain's own passes, in the order they run.
    Pass {
        /// Removes nodes the output does not depend on.
        DropDead = "drop-dead",
        /// Gives the weights of all layers but the skipped the recipe's scheme: 8 or 7 bits, symmetric, per output channel.
        QuantizeWeights = "quantize-weights",
        /// Places activation quantizers by the target's rules.
        QuantizeActivations = "quantize-activations",
        /// Observes what other targets would quantize, so that every profile can be written.
        ObserveSuperset = "observe-superset",
        /// Computes in BF16 or FP16; logits in FP32.
        AmpCast = "amp-cast",
        /// Keeps activations and weights channels-last.
        MemoryLayout = "memory-layout",
        /// Folds every BatchNorm into the layer before it; export only: exact, weight codes unchanged.
        FoldBatchNorm = "fold-batch-norm",
    }
}

/// A rewrite of the graph.
pub trait GraphPass: Send + Sync {
    /// Its name in dumps and messages.
    fn name(&self) -> &str;

    /// What it does, in one line.
    fn what(&self) -> &str;

    /// The rewritten graph. Types of values need not be right: they are inferred anew, and the graph is checked, after
    /// every pass.
    fn apply(&self, graph: Graph, strategy: &Strategy) -> Result<Graph, GraphError>;

    /// Whether it runs for this purpose; a pass of one's own does unless it says otherwise.
    fn runs(&self, strategy: &Strategy, network: &NetworkFacts, purpose: Purpose) -> bool {
        let _ = (strategy, network, purpose);
        true
    }
}

impl GraphPass for Pass {
    fn name(&self) -> &str {
        Pass::name(*self)
    }

    fn what(&self) -> &str {
        match self {
            Pass::DropDead => "removes nodes the output does not depend on",
            Pass::QuantizeWeights => {
                "gives the weights of all layers but the skipped codes of 8 or 7 bits, symmetric, per output channel"
            }
            Pass::QuantizeActivations => "places activation quantizers by the target's rules",
            Pass::ObserveSuperset => {
                "observes what other targets would quantize, so that every profile can be written"
            }
            Pass::AmpCast => "computes in BF16 or FP16; logits in FP32",
            Pass::MemoryLayout => "keeps activations channels-last",
            Pass::FoldBatchNorm => {
                "folds every BatchNorm that is right behind a layer into it (export only: exact, weight codes unchanged)"
            }
        }
    }

    fn apply(&self, graph: Graph, strategy: &Strategy) -> Result<Graph, GraphError> {
        match self {
            Pass::DropDead => drop_dead::apply(graph),
            Pass::QuantizeWeights => quantize_weights::apply(graph, strategy),
            Pass::QuantizeActivations => quantize_activations::apply(graph, strategy),
            Pass::ObserveSuperset => observe_superset::apply(graph, strategy),
            Pass::AmpCast => amp_cast::apply(graph, strategy),
            Pass::MemoryLayout => memory_layout::apply(graph, strategy),
            Pass::FoldBatchNorm => fold_batch_norm::apply(graph),
        }
    }

    fn runs(&self, strategy: &Strategy, network: &NetworkFacts, purpose: Purpose) -> bool {
        decide::decision(*self, strategy, network, purpose).on
    }
}

/// The list of passes: Octrain's own, and those that were added. [`Passes::default`] has none added.
///
/// ```
/// # use octrain_core::{graph::{Graph, GraphError, Op}, models, strategy::{Purpose, Strategy}};
/// # use octrain_core::passes::{GraphPass, Pass, Passes};
/// /// Leaves out every residual sum's ReLU.
/// struct Linearise;
///
/// impl GraphPass for Linearise {
///     fn name(&self) -> &str { "linearise" }
///     fn what(&self) -> &str { "sums keep their sign" }
///     fn apply(&self, mut graph: Graph, _: &Strategy) -> Result<Graph, GraphError> {
///         for i in 0..graph.nodes.len() {
///             let source = graph.nodes[i].inputs.first().copied();
///             if graph.nodes[i].op == Op::Relu && graph.node(source.unwrap()).op == Op::Add {
///                 graph.reroute(octrain_core::graph::NodeId(i), source.unwrap());
///             }
///         }
///         Ok(graph)
///     }
/// }
///
/// let passes = Passes::default().before(Pass::DropDead, Linearise);
/// let network = models::build("ResNet20", [3, 32, 32], 10)?;
/// let graph = passes.run(network, &Strategy::default(), Purpose::Train, |_, _| {})?;
/// assert!(graph.find("layer1.0.relu").is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Passes(Vec<Arc<dyn GraphPass>>);

impl Default for Passes {
    fn default() -> Self {
        Self(Pass::ALL.iter().map(|&p| Arc::new(p) as Arc<dyn GraphPass>).collect())
    }
}

impl std::fmt::Debug for Passes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|p| p.name())).finish()
    }
}

impl Passes {
    /// The list with `pass` right before one of Octrain's own; behind what was put there earlier.
    pub fn before(mut self, at: Pass, pass: impl GraphPass + 'static) -> Self {
        self.0.insert(self.position(at), Arc::new(pass));
        self
    }

    /// The list with `pass` right after one of Octrain's own; before what was put there earlier.
    pub fn after(mut self, at: Pass, pass: impl GraphPass + 'static) -> Self {
        self.0.insert(self.position(at) + 1, Arc::new(pass));
        self
    }

    fn position(&self, at: Pass) -> usize {
        let found = self.0.iter().position(|p| p.name() == at.name());
        found.expect("Octrain's own passes are always in the list")
    }

    /// Names of the passes that [`Self::run`] runs, in order.
    pub fn names(&self, strategy: &Strategy, network: &NetworkFacts, purpose: Purpose) -> Vec<String> {
        let runs = self.0.iter().filter(|p| p.runs(strategy, network, purpose));
        runs.map(|p| p.name().to_string()).collect()
    }

    /// Runs the passes that `strategy` and `purpose` ask for, in order. `watch` sees the graph after each pass that ran.
    /// The error names the node that a pass cannot handle, or what is wrong with the graph that it made.
    pub fn run(
        &self,
        graph: Graph,
        strategy: &Strategy,
        purpose: Purpose,
        mut watch: impl FnMut(&dyn GraphPass, &Graph),
    ) -> Result<Graph, GraphError> {
        let network = NetworkFacts::of(&graph);
        let mut graph = graph.retype()?;
        for pass in self.0.iter().filter(|p| p.runs(strategy, &network, purpose)) {
            graph = pass.apply(graph, strategy)?.retype()?;
            watch(&**pass, &graph);
        }
        Ok(graph)
    }
}
