//! Which edges of a graph are quantized for which runtime. Each operator's rule is among its facts
//! (`Operator::quantized_inputs`); rules look at structure only, never at the order of nodes. Those of Octrain's own
//! operators come to this:
//!
//! | target | quantized edges |
//! | --- | --- |
//! | all | the inputs of Conv and Linear, both inputs of MatMul |
//! | `tensorrt`, `openvino` | and the *skip* input of a residual Add (Q/DQ on the convolution branch splits its fusion) |
//! | `openvino` | and the input of a mean over a whole image that is the result of a convolution, its BatchNorm and cut-off included |
//! | `onnxruntime` | and all inputs of Add, Mul and Concat, the input of pools that take a mean, that of Sigmoid, HardSigmoid, Silu and HardSwish where it is made in integers, and of a Reshape of an image to tokens (every node wants integer neighbours); and whatever else reads the result of a convolution, though it computes in floating point itself (LayerNorm, Gelu, Scale): without a pair behind it the convolution would not run in integers |
//!
//! Softmax, LayerNorm and Gelu stay in floating point, and so do Add, Mul and Concat of tokens: the residual stream of a
//! transformer. A quantizer belongs to a value: all quantized edges from one value share its scale. What hands values on
//! unchanged (MaxPool, Flatten, Reshape, Transpose, Pad, Dropout) has the quantizer before it. Concat's result is quantized
//! where it is read, with one scale. The first layer reads the quantized image; the result of the last is not quantized.
//! An operator that no rule speaks of is an error unless `--qat-skip` names it: nothing is left in floating point unsaid.

use crate::graph::{Graph, GraphError, NodeId, Op, Site};
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

/// Nodes that stay in floating point. A pattern that matches no node, or none that a target quantizes, is an error. What no
/// target quantizes is never left out: a pair before it is there for what makes the value it reads.
pub fn skipped(graph: &Graph, patterns: &[String]) -> Result<Vec<bool>, GraphError> {
    let mut skip = vec![false; graph.nodes.len()];
    if patterns.is_empty() {
        return Ok(skip);
    }
    let quantizable = quantizable(graph);
    for pattern in patterns {
        let matching = || graph.iter().filter(|(_, n)| matches(pattern, &n.name));
        let mut hit = false;
        for (id, _) in matching().filter(|(id, _)| quantizable[id.0]) {
            skip[id.0] = true;
            hit = true;
        }
        if !hit {
            return Err(match matching().next() {
                Some((id, _)) => unquantized(graph, id, pattern),
                None => {
                    let example = graph.nodes.iter().find(|n| n.op.layer().is_some());
                    let example = example.map_or_else(String::new, |n| n.name.clone());
                    GraphError::SkipMatchesNothing { pattern: pattern.clone(), example }
                }
            });
        }
    }
    Ok(skip)
}

/// Nodes of a graph without quantizers that some target computes from quantized inputs, or that no rule speaks of: what
/// `--qat-skip` can leave in floating point.
pub fn quantizable(graph: &Graph) -> Vec<bool> {
    let mut out = vec![false; graph.nodes.len()];
    for &target in Target::ALL {
        for ((id, node), site) in graph.iter().zip(sites(graph, target)) {
            out[id.0] |=
                node.op.facts().quantized_inputs(target, &site).is_none_or(|slots| !slots.is_empty());
        }
    }
    out
}

/// Why a node cannot be left out of quantization: it is not quantized.
fn unquantized(graph: &Graph, id: NodeId, pattern: &str) -> GraphError {
    let node = graph.node(id);
    let facts = node.op.facts();
    let why = match node.inputs[..] {
        _ if graph.stands_apart(id) => {
            "which is not folded into a layer, and stays in floating point on every target".into()
        }
        [layer] if matches!(node.op, Op::BatchNorm(_)) => {
            format!("which is folded into `{}`: that can be named", graph.node(layer).name)
        }
        [] => "which is quantized where it is read: name what reads it".into(),
        _ if facts.stays_float() => "which stays in floating point on every target".into(),
        _ => "which is computed in the type of what it reads".into(),
    };
    let node = format!("`{}` ({}), {why}", node.name, node.op.kind());
    GraphError::SkipsUnquantized { pattern: pattern.into(), node }
}

/// Edges quantized for `target`, with quantizers hoisted before operators that hand values on. An operator without a
/// rule that is not skipped is an error.
pub fn edges(graph: &Graph, target: Target, skip: &[bool]) -> Result<BTreeSet<Edge>, GraphError> {
    let mut out = BTreeSet::new();
    for ((id, node), site) in graph.iter().zip(sites(graph, target)).filter(|((id, _), _)| !skip[id.0]) {
        let slots = node.op.facts().quantized_inputs(target, &site).ok_or_else(|| {
            let (node, op, target) = (node.name.clone(), node.op.kind(), target.name());
            GraphError::NoPlacementRule { node, op, target }
        })?;
        out.extend(slots.into_iter().map(|slot| (id, slot)));
    }
    if target.integer_neighbours() {
        out.extend(bare_results(graph, skip, &out));
    }
    Ok(out.into_iter().map(|edge| hoist(graph, edge)).collect())
}

/// Values observed so that every target's profile can be written: the values of all targets' quantized edges.
pub fn superset(graph: &Graph, skip: &[bool]) -> Result<BTreeSet<NodeId>, GraphError> {
    let mut out = BTreeSet::new();
    for &target in Target::ALL {
        out.extend(edges(graph, target, skip)?.into_iter().map(|(node, slot)| graph.node(node).inputs[slot]));
    }
    Ok(out)
}

/// The edges over which operators that want nothing quantized read what a convolution makes, with nothing quantized between:
/// without a pair there a runtime that wants integer neighbours computes the convolution in floating point.
fn bare_results(graph: &Graph, skip: &[bool], quantized: &BTreeSet<Edge>) -> Vec<Edge> {
    let (mut bare, readers) = (vec![false; graph.nodes.len()], readers(graph));
    let mut out = Vec::new();
    for (id, node) in graph.iter() {
        let facts = node.op.facts();
        let open: Vec<usize> = (0..node.inputs.len())
            .filter(|&slot| bare[node.inputs[slot].0] && !quantized.contains(&(id, slot)))
            .collect();
        if facts.hands_on() || is_within(graph, id, &readers) {
            bare[id.0] = !open.is_empty();
        } else {
            let quantizes = (0..node.inputs.len()).any(|slot| quantized.contains(&(id, slot)));
            bare[id.0] = facts.layer().is_some() && node.ty.shape.len() == 3 && quantizes;
            out.extend(open.into_iter().filter(|_| !skip[id.0]).map(|slot| (id, slot)));
        }
    }
    out
}

/// How many nodes read each value; the result of the graph is read once more.
fn readers(graph: &Graph) -> Vec<usize> {
    let mut readers = vec![0; graph.nodes.len()];
    graph.nodes.iter().flat_map(|n| &n.inputs).for_each(|i| readers[i.0] += 1);
    readers[graph.output.0] += 1;
    readers
}

/// Whether engines compute a node within what makes its only input: nothing else reads that.
fn is_within(graph: &Graph, id: NodeId, readers: &[usize]) -> bool {
    let node = graph.node(id);
    let alone = matches!(node.inputs[..], [input] if readers[input.0] == 1);
    alone && node.op.facts().ends_a_layer() && !graph.stands_apart(id)
}

/// Where every node stands. The same whatever is skipped, so that a layer has its own quantizers alone, too.
fn sites(graph: &Graph, target: Target) -> Vec<Site> {
    let (absorbing, readers) = (absorbing(graph), readers(graph));
    let mut sites: Vec<Site> = Vec::with_capacity(graph.nodes.len());
    // Of every value, whether it is made from quantized inputs, by a layer, and with what engines compute within it.
    let (mut integers, mut layer) = (Vec::<bool>::new(), Vec::<bool>::new());
    for (id, node) in graph.iter() {
        let site = Site {
            absorbing: node.inputs.iter().map(|i| absorbing[i.0]).collect(),
            ranks: node.inputs.iter().map(|&i| graph.node(i).ty.shape.len()).collect(),
            of_layer: node.inputs.iter().map(|i| layer[i.0] && readers[i.0] == 1).collect(),
            of_integers: node.inputs.iter().map(|i| integers[i.0]).collect(),
        };
        let facts = node.op.facts();
        let quantized = facts.quantized_inputs(target, &site).is_some_and(|slots| !slots.is_empty());
        let (within, first) = (is_within(graph, id, &readers), node.inputs.first());
        let kept = |made: &[bool], hands_on| (within || hands_on) && first.is_some_and(|i| made[i.0]);
        layer.push((quantized && facts.layer().is_some()) || kept(&layer, false));
        integers.push(quantized || kept(&integers, facts.hands_on()));
        sites.push(site);
    }
    sites
}

fn hoist(graph: &Graph, (node, slot): Edge) -> Edge {
    let source = graph.node(node).inputs[slot];
    match graph.node(source).op.facts().hands_on() {
        true => hoist(graph, (source, 0)),
        false => (node, slot),
    }
}

/// For every value, the most operators that absorb sums on any way to it from the graph's input, its own included.
fn absorbing(graph: &Graph) -> Vec<usize> {
    let mut count = vec![0; graph.nodes.len()];
    for (id, node) in graph.iter() {
        let before = node.inputs.iter().map(|i| count[i.0]).max().unwrap_or(0);
        count[id.0] = before + usize::from(node.op.facts().absorbs_sum());
    }
    count
}

/// Whether a value can be negative, by structure.
pub fn sign(graph: &Graph, value: NodeId) -> Sign {
    let mut signs: Vec<Sign> = Vec::with_capacity(value.0 + 1);
    for node in &graph.nodes[..=value.0] {
        let inputs: Vec<Sign> = node.inputs.iter().map(|i| signs[i.0]).collect();
        signs.push(node.op.facts().sign(&inputs));
    }
    signs[value.0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Builder;
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
        let skip_inputs = |g: &Graph, add: NodeId| {
            let edges = edges(g, Target::Openvino, &vec![false; g.nodes.len()]).unwrap();
            edges.into_iter().filter(|&(n, _)| n == add).map(|(_, slot)| slot).collect::<Vec<_>>()
        };
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
    fn what_reads_a_convolution_beside_another_has_a_pair_before_it_where_neighbours_are_integers() {
        let (mut b, x) = Builder::new("Beside", [3, 8, 8]);
        let stem = b.conv("stem", x, 4, 3, 1).unwrap();
        let relu = b.push("relu", Op::Relu, &[stem]).unwrap();
        let branch = b.conv("branch", relu, 4, 3, 1).unwrap();
        let sum = b.push("add", Op::Add, &[branch, stem]).unwrap();
        let g = b.finish(sum).unwrap();
        let e = names(&g, Target::Onnxruntime);
        assert!(["relu:0", "add:1"].iter().all(|edge| e.contains(&edge.to_string())), "{e:?}");
        assert!(!names(&g, Target::Openvino).contains(&"relu:0".into()));
    }

    #[test]
    fn a_pattern_without_a_match_is_an_error() {
        let g = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        assert!(skipped(&g, &["layer9.*".into()]).unwrap_err().to_string().contains("layer9.*"));
        assert_eq!(skipped(&g, &["fc".into()]).unwrap().iter().filter(|&&s| s).count(), 1);
    }

    #[test]
    fn a_sum_of_tokens_that_no_target_quantizes_cannot_be_skipped() {
        let g = models::build("ViT-32px", [3, 32, 32], 10).unwrap();
        let sums: Vec<_> = g.iter().filter(|(_, n)| matches!(n.op, Op::Add)).collect();
        assert_eq!(sums.len(), 13);
        for (id, sum) in sums {
            assert!(!quantizable(&g)[id.0]);
            let told = skipped(&g, std::slice::from_ref(&sum.name)).unwrap_err().to_string();
            assert!(told.contains("in the type of what it reads"), "{told}");
        }
    }
}
