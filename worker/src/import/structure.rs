//! One network in two graphs: which node, and so which parameter, of one is which of the other. By structure alone: what
//! nodes compute, of what they compute it, and shapes; names do not matter. A pure function.

use crate::graph::{BatchNorm, Graph, Node, NodeId, Op};
use std::collections::BTreeMap;

/// Pairs tried before a search is given up; networks need their number of nodes and little more.
const MOST_TRIES: usize = 1 << 20;

/// Why two graphs are not one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unlike {
    /// Findings, for people.
    pub findings: Vec<String>,
    /// How many parameters are only in one of them, to compare candidates.
    pub distance: usize,
}

/// For every node of `ours` the node of `theirs` that computes the same.
///
/// # Errors
/// What is different.
pub(super) fn matched(theirs: &Graph, ours: &Graph) -> Result<BTreeMap<NodeId, NodeId>, Unlike> {
    let mut search =
        Search { theirs, ours, paired: BTreeMap::new(), trail: Vec::new(), tries: 0, furthest: None };
    if search.same(theirs.output, ours.output) && search.paired.len() == ours.nodes.len() {
        return Ok(search.paired.into_iter().map(|(theirs, ours)| (ours, theirs)).collect());
    }
    Err(search.unlike())
}

struct Search<'a> {
    theirs: &'a Graph,
    ours: &'a Graph,
    /// Nodes of theirs with those of ours.
    paired: BTreeMap<NodeId, NodeId>,
    /// The pairs in the order in which they were made, to be undone.
    trail: Vec<NodeId>,
    tries: usize,
    /// The pair that failed when most others had been made.
    furthest: Option<(usize, NodeId, NodeId)>,
}

impl Search<'_> {
    /// Whether two values are the same. The graphs are walked together from their results, so that no way is longer than
    /// ours are deep.
    fn same(&mut self, theirs: NodeId, ours: NodeId) -> bool {
        self.tries += 1;
        if self.tries > MOST_TRIES {
            return false;
        }
        if let Some(known) = self.paired.get(&theirs) {
            return *known == ours;
        }
        let (a, b) = (self.theirs.node(theirs), self.ours.node(ours));
        if !alike(self.theirs, a, self.ours, b) {
            let made = self.paired.len();
            if self.furthest.is_none_or(|(most, ..)| made > most) {
                self.furthest = Some((made, theirs, ours));
            }
            return false;
        }
        let mark = self.trail.len();
        self.paired.insert(theirs, ours);
        self.trail.push(theirs);
        let (a, b) = (a.inputs.clone(), b.inputs.clone());
        if self.all_same(&a, &b) {
            return true;
        }
        // A sum or a product is the same the other way round.
        if let (Op::Add | Op::Mul, [first, second]) = (&self.ours.node(ours).op, &a[..]) {
            self.undo(mark + 1);
            if self.all_same(&[*second, *first], &b) {
                return true;
            }
        }
        self.undo(mark);
        false
    }

    fn all_same(&mut self, theirs: &[NodeId], ours: &[NodeId]) -> bool {
        theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(a, b)| self.same(*a, *b))
    }

    fn undo(&mut self, mark: usize) {
        for theirs in self.trail.drain(mark..) {
            self.paired.remove(&theirs);
        }
    }

    /// What parameters are only in one of the graphs, or where the structure differs first.
    fn unlike(&self) -> Unlike {
        let of = |graph: &Graph| {
            let mut all: BTreeMap<(&'static str, Vec<usize>), Vec<String>> = BTreeMap::new();
            for node in graph.nodes.iter().filter(|node| node.op.layer().is_some()) {
                let weight = node.op.layer().map(|layer| layer.weight.clone()).unwrap_or_default();
                let shape = graph.param(&weight).map(|p| p.shape.clone()).unwrap_or_default();
                all.entry((node.op.kind(), shape)).or_default().push(weight);
            }
            all
        };
        let (theirs, ours) = (of(self.theirs), of(self.ours));
        let beyond = |a: &BTreeMap<_, Vec<String>>, b: &BTreeMap<_, Vec<String>>| {
            let more = |(key, names): (&(&'static str, Vec<usize>), &Vec<String>)| {
                let n = names.len().saturating_sub(b.get(key).map_or(0, Vec::len));
                (n > 0)
                    .then(|| (n, format!("{n} {} with a weight {:?}, of {}", key.0, key.1, names.join(", "))))
            };
            a.iter().filter_map(more).collect::<Vec<_>>()
        };
        let (more, less) = (beyond(&theirs, &ours), beyond(&ours, &theirs));
        let distance = more.iter().chain(&less).map(|(n, _)| n).sum();
        let name = &self.ours.name;
        let mut findings: Vec<String> =
            more.into_iter().map(|(_, told)| format!("the file has, and {name} has not: {told}")).collect();
        findings
            .extend(less.into_iter().map(|(_, told)| format!("{name} has, and the file has not: {told}")));
        if let (true, Some((_, theirs, ours))) = (findings.is_empty(), self.furthest) {
            findings.push(format!(
                "all weights are there, and are put together in another way: where {name} has {}, the file has {}",
                described(self.ours, ours),
                described(self.theirs, theirs)
            ));
        }
        Unlike { findings, distance }
    }
}

fn described(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    format!("`{}` ({})", node.name, node.op.facts().describe(&graph.shapes()))
}

/// Whether two nodes do the same with parameters of the same shapes. What BatchNorm adds to the variance, and how fast its
/// statistics move, is a setting: the file's is kept.
fn alike(theirs: &Graph, a: &Node, ours: &Graph, b: &Node) -> bool {
    let shapes = |graph: &Graph, op: &Op| -> Vec<Option<Vec<usize>>> {
        op.params().into_iter().map(|name| graph.param(name).map(|p| p.shape.clone())).collect()
    };
    a.ty == b.ty && shapes(theirs, &a.op) == shapes(ours, &b.op) && attributes(&a.op) == attributes(&b.op)
}

/// An operator without the names of its parameters.
fn attributes(op: &Op) -> Op {
    let mut op = op.clone();
    if let Some(layer) = op.layer_mut() {
        layer.weight.clear();
        layer.bias = layer.bias.take().map(|_| String::new());
    }
    if let Op::BatchNorm(norm) = &mut op {
        let BatchNorm { gamma, beta, mean, var, eps, momentum } = norm;
        [gamma, beta, mean, var].into_iter().for_each(String::clear);
        (*eps, *momentum) = (0.0, 0.0);
    }
    op
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;

    fn build(name: &str) -> Graph {
        models::build(name, [3, 64, 64], 10).unwrap()
    }

    /// The same network with its sums the other way round, under other names.
    fn renamed(name: &str) -> Graph {
        let mut graph = build(name);
        for (i, node) in graph.nodes.iter_mut().enumerate() {
            node.name = format!("n{i}");
            if node.op == Op::Add {
                node.inputs.reverse();
            }
        }
        graph
    }

    #[test]
    fn a_network_is_found_whatever_its_names_and_the_order_of_its_sums() {
        for name in models::NAMES {
            let (theirs, ours) = (renamed(name), build(name));
            let pairs = matched(&theirs, &ours).unwrap();
            assert_eq!(pairs.len(), ours.nodes.len());
            assert!(pairs.iter().all(|(ours, theirs)| ours == theirs), "{name}");
        }
    }

    #[test]
    fn what_is_not_in_both_is_listed_and_else_where_they_part() {
        let told = matched(&build("ResNet18"), &build("ResNet34")).unwrap_err();
        assert!(
            told.distance > 0
                && told.findings.iter().all(|f| f.contains("ResNet34 has, and the file has not: "))
        );
        let told = matched(&build("ResNet50"), &build("ResNet18")).unwrap_err().findings;
        assert!(told.iter().any(|f| f.starts_with("the file has, and ResNet18 has not: ")), "{told:?}");
        let mut other = build("ResNet18");
        let stride = other.find("layer3.0.conv1").unwrap();
        if let Op::Conv(conv) = &mut other.nodes[stride.0].op {
            conv.stride = [1, 2];
        }
        let told = matched(&other, &build("ResNet18")).unwrap_err();
        assert_eq!((told.distance, told.findings.len()), (0, 1));
        assert!(told.findings[0].contains("`layer3.0.conv1`"), "{told:?}");
    }
}
