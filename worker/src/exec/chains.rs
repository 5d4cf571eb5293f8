//! Which neighbours run as one operator: BatchNorm, a sum, an activation that cuts, and a quantizer behind one another, of
//! images whose channels are innermost in memory.

use super::ops::{self, Stage};
use crate::graph::{Graph, Layout, Node, NodeId, Op};
use crate::native::Cut;

/// Nodes that run as one. Each but the last is read by the next alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chain {
    /// The value it starts from.
    pub input: NodeId,
    /// Its BatchNorm, with its eps.
    pub norm: Option<(NodeId, f64)>,
    /// A quantizer that observes what the BatchNorm makes, and no more.
    pub normed: Option<NodeId>,
    /// What its sum adds.
    pub residual: Option<NodeId>,
    /// Its activation.
    pub cut: Option<Cut>,
    /// The quantizer at its end.
    pub quantizer: Option<NodeId>,
    /// The node whose value it makes.
    pub last: NodeId,
    /// All of its nodes.
    pub nodes: Vec<NodeId>,
}

/// Every chain of a graph: two nodes or more, or a BatchNorm alone. No node is in two of them.
pub(super) fn find(graph: &Graph) -> Vec<Chain> {
    if graph.layout != Layout::Nhwc {
        return vec![];
    }
    let stages = graph.nodes.iter().map(|n| ops::stage(&n.op)).collect();
    let search = Search { graph, consumers: graph.consumers(), stages };
    let mut chains: Vec<Chain> = vec![];
    let mut taken = vec![false; graph.nodes.len()];
    for (id, _) in graph.iter() {
        if taken[id.0] {
            continue;
        }
        if let Some(chain) = search.from(id, &taken) {
            chain.nodes.iter().for_each(|n| taken[n.0] = true);
            chains.push(chain);
        }
    }
    chains
}

/// Every BatchNorm of [`find`]'s chains, alone.
pub(super) fn norms(graph: &Graph) -> Vec<Chain> {
    let alone = |chain: Chain| {
        let (last, _) = chain.norm?;
        let (normed, residual, cut, quantizer) = (None, None, None, None);
        Some(Chain { normed, residual, cut, quantizer, last, nodes: vec![last], ..chain })
    };
    find(graph).into_iter().filter_map(alone).collect()
}

struct Search<'a> {
    graph: &'a Graph,
    consumers: Vec<Vec<(NodeId, usize)>>,
    stages: Vec<Option<Stage>>,
}

impl Search<'_> {
    /// The chain that begins at a node, if one does.
    fn from(&self, first: NodeId, taken: &[bool]) -> Option<Chain> {
        let node = self.graph.node(first);
        if node.ty.shape.len() != 3 || !self.takes(first) {
            return None;
        }
        let (input, nodes) = (node.inputs[0], vec![]);
        let nothing = (None, None, None, None, None);
        let (norm, normed, residual, cut, quantizer) = nothing;
        let mut chain = Chain { input, norm, normed, residual, cut, quantizer, last: first, nodes };
        let mut next = Some(first);
        while let Some(id) = next.filter(|id| !taken[id.0] && self.append(&mut chain, *id)) {
            (chain.last, next) = (id, self.only_reader(id));
            chain.nodes.push(id);
        }
        (chain.norm.is_some() || chain.nodes.len() > 1).then_some(chain)
    }

    /// Whether all values that a node reads have the type of its own, so that elements meet elements.
    fn takes(&self, id: NodeId) -> bool {
        let node = self.graph.node(id);
        self.stages[id.0].is_some() && node.inputs.iter().all(|i| self.graph.node(*i).ty == node.ty)
    }

    fn only_reader(&self, id: NodeId) -> Option<NodeId> {
        match self.consumers[id.0][..] {
            [(reader, _)] if id != self.graph.output => Some(reader),
            _ => None,
        }
    }

    /// Puts a node at the end of a chain, if there is room for what it does.
    fn append(&self, chain: &mut Chain, id: NodeId) -> bool {
        let node: &Node = self.graph.node(id);
        let Some(stage) = self.stages[id.0].filter(|_| self.takes(id)) else { return false };
        let ended = chain.quantizer.is_some();
        match stage {
            Stage::Norm { eps } if chain.nodes.is_empty() => chain.norm = Some((id, eps)),
            Stage::Sum if !ended && chain.residual.is_none() && chain.cut.is_none() => {
                let before = chain.nodes.last().copied().unwrap_or(chain.input);
                let other = if node.inputs[0] == before { node.inputs[1] } else { node.inputs[0] };
                chain.residual = Some(other);
            }
            Stage::Cut(cut) if !ended && chain.cut.is_none() => chain.cut = Some(cut),
            Stage::Quantize if !ended && !chain.nodes.is_empty() => {
                let observes = matches!(&node.op, Op::Quantize(q) if !q.active);
                let goes_on = self.only_reader(id).is_some_and(|next| {
                    matches!(self.stages[next.0], Some(Stage::Sum | Stage::Cut(_))) && self.takes(next)
                });
                if observes && goes_on && chain.nodes.len() == 1 && chain.norm.is_some() {
                    chain.normed = Some(id);
                } else {
                    chain.quantizer = Some(id);
                }
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;

    fn names(graph: &Graph) -> Vec<String> {
        let of = |chain: &Chain| {
            let nodes: Vec<&str> = chain.nodes.iter().map(|n| graph.node(*n).name.as_str()).collect();
            nodes.join(" ")
        };
        find(graph).iter().map(of).collect()
    }

    #[test]
    fn a_block_is_three_chains() {
        let mut graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        assert!(names(&graph).is_empty(), "channels are not innermost");
        graph.layout = Layout::Nhwc;
        let names = names(&graph);
        let block = [
            "layer2.0.bn1 layer2.0.bn1.relu",
            "layer2.0.bn2 layer2.0.add layer2.0.relu",
            "layer2.0.downsample.1",
        ];
        for chain in block {
            assert!(names.contains(&chain.to_string()), "{chain} is not among {names:?}");
        }
        let chains = find(&graph);
        let with_sum = chains.iter().find(|c| c.residual.is_some()).unwrap();
        assert_eq!(graph.node(with_sum.residual.unwrap()).name, "bn1.relu");
        assert_eq!(graph.node(with_sum.input).name, "layer1.0.conv2");
    }

    #[test]
    fn no_node_is_in_two_chains() {
        for name in ["ResNet50", "MobileNetV2", "MobileNetV3-Small", "RegNetY-400MF", "EfficientNet-B0"] {
            let mut graph = models::build(name, [3, 224, 224], 1000).unwrap();
            graph.layout = Layout::Nhwc;
            let mut seen = std::collections::HashSet::new();
            let chains = find(&graph);
            assert!(chains.iter().flat_map(|c| &c.nodes).all(|n| seen.insert(n.0)), "{name}");
            let norms = graph.nodes.iter().filter(|n| matches!(n.op, Op::BatchNorm(_))).count();
            assert_eq!(chains.iter().filter(|c| c.norm.is_some()).count(), norms, "{name}");
        }
    }
}
