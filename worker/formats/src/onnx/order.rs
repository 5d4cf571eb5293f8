//! The order in which nodes run.

use super::{Finding, Node};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// The nodes so that each comes after those whose values it reads, otherwise in the file's order. What nothing makes, what is
/// made twice, and nodes that wait for each other are found.
pub(super) fn sorted(nodes: Vec<Node>, given: &BTreeSet<String>, findings: &mut Vec<Finding>) -> Vec<Node> {
    let mut makers: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            if given.contains(output) || makers.insert(output, i).is_some() {
                findings.push(Finding::at(node, format!("makes `{output}`, which is there already")));
            }
        }
    }
    let mut waits = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for input in node.inputs.iter().filter(|name| !name.is_empty()) {
            match makers.get(input.as_str()) {
                Some(&maker) => {
                    waits[i] += 1;
                    readers[maker].push(i);
                }
                None if given.contains(input) => {}
                None => findings.push(Finding::at(node, format!("reads `{input}`, which nothing makes"))),
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|&i| waits[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &reader in &readers[i] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    if let Some(stuck) = (0..nodes.len()).find(|&i| waits[i] > 0) {
        findings.push(Finding::at(&nodes[stuck], "waits for its own value: the graph has a cycle"));
    }
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| nodes[i].take()).collect()
}
