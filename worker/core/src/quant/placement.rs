//! Which edges of a graph are quantized for which runtime. Rules look at structure only, never at the order of
//! nodes.
//!
//! | target | quantized edges |
//! | --- | --- |
//! | all | the inputs of Conv and Linear |
//! | `tensorrt`, `openvino` | and the *skip* input of a residual Add (Q/DQ on the convolution branch splits its fusion) |
//! | `onnxruntime` | and all inputs of Add and Concat, and the input of GlobalAvgPool (every node wants integer neighbours) |
//!
//! A quantizer belongs to a value: all quantized edges from one value share its scale. MaxPool and Flatten hand
//! values on unchanged, so the quantizer sits before them. Concat's result is quantized where it is read, with one
//! scale. The first layer reads the quantized image; the result of the last is not quantized. An operator that no
//! rule speaks of (Sigmoid) is an error unless `--qat-skip` names it: nothing is left in floating point unsaid.

use crate::graph::{Graph, GraphError, NodeId, Op};
use crate::quant::scheme::Sign;
use crate::strategy::Target;
use std::collections::BTreeSet;

/// An edge: the reading node and the position of the input.
pub type Edge = (NodeId, usize);

/// Whether `name` matches `pattern`, in which `*` stands for any run of characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            tail.is_empty() || (0..=rest.len()).any(|i| rest.is_char_boundary(i) && matches(tail, &rest[i..]))
        }),
    }
}

/// Nodes that stay in floating point. A pattern that matches no node is an error.
pub fn skipped(graph: &Graph, patterns: &[String]) -> Result<Vec<bool>, GraphError> {
    let mut skip = vec![false; graph.nodes.len()];
    for pattern in patterns {
        let mut hit = false;
        for (id, node) in graph.iter().filter(|(_, n)| matches(pattern, &n.name)) {
            skip[id.0] = true;
            hit |= matches!(
                node.op,
                Op::Conv(_) | Op::Linear(_) | Op::Add | Op::Concat | Op::GlobalAvgPool | Op::Sigmoid
            );
        }
        if !hit {
            let example = graph.nodes.iter().find(|n| matches!(n.op, Op::Conv(_))).map_or("", |n| &n.name);
            return Err(GraphError::SkipMatchesNothing { pattern: pattern.clone(), example: example.into() });
        }
    }
    Ok(skip)
}

/// Edges quantized for `target`, with quantizers hoisted before operators that hand values on. An operator without a
/// rule that is not skipped is an error.
pub fn edges(graph: &Graph, target: Target, skip: &[bool]) -> Result<BTreeSet<Edge>, GraphError> {
    let mut out = BTreeSet::new();
    for (id, node) in graph.iter().filter(|(id, _)| !skip[id.0]) {
        match node.op {
            Op::Conv(_) | Op::Linear(_) => drop(out.insert((id, 0))),
            Op::Concat if target == Target::Onnxruntime => {
                out.extend((0..node.inputs.len()).map(|slot| (id, slot)));
            }
            Op::Add if target == Target::Onnxruntime => out.extend([(id, 0), (id, 1)]),
            Op::Add => out.extend(skip_inputs(graph, id).into_iter().map(|slot| (id, slot))),
            Op::GlobalAvgPool if target == Target::Onnxruntime => drop(out.insert((id, 0))),
            Op::Input
            | Op::BatchNorm(_)
            | Op::Relu
            | Op::MaxPool(_)
            | Op::GlobalAvgPool
            | Op::Flatten
            | Op::Concat
            | Op::Quantize(_)
            | Op::Cast(_) => {}
            Op::Sigmoid => {
                let (node, op, target) = (node.name.clone(), node.op.kind(), target.name());
                return Err(GraphError::NoPlacementRule { node, op, target });
            }
        }
    }
    Ok(out.into_iter().map(|edge| hoist(graph, edge)).collect())
}

/// Values observed so that every target's profile can be written: the values of all targets' quantized edges.
pub fn superset(graph: &Graph, skip: &[bool]) -> Result<BTreeSet<NodeId>, GraphError> {
    let mut out = BTreeSet::new();
    for target in [Target::Openvino, Target::Onnxruntime, Target::Tensorrt] {
        out.extend(edges(graph, target, skip)?.into_iter().map(|(node, slot)| graph.node(node).inputs[slot]));
    }
    Ok(out)
}

fn hoist(graph: &Graph, (node, slot): Edge) -> Edge {
    let source = graph.node(node).inputs[slot];
    match graph.node(source).op {
        Op::MaxPool(_) | Op::Flatten => hoist(graph, (source, 0)),
        _ => (node, slot),
    }
}

/// Most convolutions on any way from the graph's input to a value.
fn depths(graph: &Graph) -> Vec<usize> {
    let mut depth = vec![0; graph.nodes.len()];
    for (id, node) in graph.iter() {
        let before = node.inputs.iter().map(|i| depth[i.0]).max().unwrap_or(0);
        depth[id.0] = before + usize::from(matches!(node.op, Op::Conv(_)));
    }
    depth
}

/// The skip inputs of an Add: the input with fewer convolutions behind it. When both have equally many no
/// branch can absorb the sum for certain, and both are quantized.
fn skip_inputs(graph: &Graph, add: NodeId) -> Vec<usize> {
    let depth = depths(graph);
    let of = |slot: usize| depth[graph.node(add).inputs[slot].0];
    match of(0).cmp(&of(1)) {
        std::cmp::Ordering::Less => vec![0],
        std::cmp::Ordering::Greater => vec![1],
        std::cmp::Ordering::Equal => vec![0, 1],
    }
}

/// Whether a value can be negative, by structure.
pub fn sign(graph: &Graph, value: NodeId) -> Sign {
    let node = graph.node(value);
    let all_unsigned = || node.inputs.iter().all(|&i| sign(graph, i) == Sign::Unsigned);
    match node.op {
        Op::Relu | Op::Sigmoid => Sign::Unsigned,
        Op::MaxPool(_)
        | Op::Flatten
        | Op::GlobalAvgPool
        | Op::Add
        | Op::Concat
        | Op::Quantize(_)
        | Op::Cast(_)
            if all_unsigned() =>
        {
            Sign::Unsigned
        }
        _ => Sign::Signed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;

    fn names(graph: &Graph, target: Target) -> Vec<String> {
        let none = vec![false; graph.nodes.len()];
        let edges = edges(graph, target, &none).unwrap();
        edges.iter().map(|&(n, s)| format!("{}:{s}", graph.node(n).name)).collect()
    }

    #[test]
    fn wildcards() {
        assert!(matches("layer1.*", "layer1.0.conv1") && matches("*conv1", "layer1.0.conv1"));
        assert!(
            matches("*", "") && matches("a*b*c", "axxbyyc") && !matches("a*b", "ac") && !matches("a", "ab")
        );
    }

    #[test]
    fn the_skip_branch_is_found_by_structure_whatever_the_order_of_inputs() {
        let mut g = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let with_downsample = g.find("layer2.0.add").unwrap();
        let identity = g.find("layer1.0.add").unwrap();
        assert_eq!(skip_inputs(&g, with_downsample), [1]);
        assert_eq!(skip_inputs(&g, identity), [1]);
        g.nodes[with_downsample.0].inputs.reverse();
        g.nodes[identity.0].inputs.reverse();
        assert_eq!(skip_inputs(&g, with_downsample), [0]);
        assert_eq!(skip_inputs(&g, identity), [0]);
    }

    #[test]
    fn pooling_is_hoisted_and_onnxruntime_takes_both_sides_of_an_add() {
        let g = models::build("ResNet18", [3, 64, 64], 10).unwrap();
        for target in [Target::Tensorrt, Target::Openvino] {
            let e = names(&g, target);
            assert!(e.contains(&"maxpool:0".into()) && !e.contains(&"layer1.0.conv1:0".into()), "{e:?}");
            assert!(e.contains(&"layer1.1.add:1".into()) && !e.contains(&"layer1.1.add:0".into()));
            assert!(e.contains(&"flatten:0".into()) && !e.contains(&"avgpool:0".into()));
        }
        let e = names(&g, Target::Onnxruntime);
        assert!(e.contains(&"layer1.1.add:0".into()) && e.contains(&"avgpool:0".into()));
    }

    #[test]
    fn a_pattern_without_a_match_is_an_error() {
        let g = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        assert!(skipped(&g, &["layer9.*".into()]).unwrap_err().to_string().contains("layer9.*"));
        assert_eq!(skipped(&g, &["fc".into()]).unwrap().iter().filter(|&&s| s).count(), 1);
    }
}
