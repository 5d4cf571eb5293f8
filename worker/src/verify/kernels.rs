//! The layers of the network among the kernels that an engine ran.

use crate::engine::{NodeProfile, Precision};
use crate::export::OUTPUT;
use crate::graph::{Graph, Node, NodeId, Op};

/// OpenVINO's name of a node of several operators.
const FUSED: &str = "Subgraph";
/// Behind a value's name: the quantizer of it in a file.
const PAIR: &str = ".q";

/// Convolutions and matrix products, with weights or of two values, by what the engine computes them in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kernels {
    /// Not in INT8, though training quantizes them.
    pub float: Vec<String>,
    /// Not in INT8, as `--qat-skip` wants it.
    pub skipped: Vec<String>,
    /// Run in INT8.
    pub int8: usize,
    /// Layers of the training graph of which the engine does not speak.
    pub unseen: Vec<String>,
}

/// The layer that makes the network's output; engines name its node after the file's output.
fn last(graph: &Graph) -> Option<&str> {
    let node = graph.node(graph.output);
    node.op.layer().map(|_| node.name.as_str())
}

/// Names of the convolutions and matrix products of a graph, and whether training quantizes what each reads.
fn products(graph: &Graph) -> Vec<(&str, bool)> {
    let quantized = |node: &Node| match node.op.layer() {
        Some(layer) => layer.quantized(),
        None => node.inputs.iter().all(|&input| is_quantized(graph, input)),
    };
    let all = graph.nodes.iter().filter(|node| node.op.facts().is_product());
    all.map(|node| (node.name.as_str(), quantized(node))).collect()
}

/// Whether a value is one of a quantizer's, handed on or as it is.
fn is_quantized(graph: &Graph, value: NodeId) -> bool {
    let node = graph.node(value);
    match &node.op {
        Op::Quantize(quantizer) if quantizer.active => true,
        op => op.facts().hands_on() && is_quantized(graph, node.inputs[0]),
    }
}

/// Sorts the engine's nodes by the layers of the training graph.
pub fn sort(nodes: &[NodeProfile], graph: &Graph) -> Kernels {
    let layers = products(graph);
    let mut out = Kernels::default();
    let mut seen = vec![false; layers.len()];
    for node in nodes {
        let names = |layer: &str| {
            is_of(&node.name, layer) || (is_of(&node.name, OUTPUT) && last(graph) == Some(layer))
        };
        let layer = (0..layers.len()).filter(|&i| names(layers[i].0)).max_by_key(|&i| layers[i].0.len());
        if !node.is_layer() && !layer.is_some_and(|i| ends_in(node, layers[i].0, graph)) {
            continue;
        }
        if let Some(i) = layer {
            seen[i] = true;
        }
        let name = layer.map_or_else(|| node.name.clone(), |i| layers[i].0.to_string());
        match (node.precision == Precision::Int8, layer) {
            (true, _) => out.int8 += 1,
            (false, Some(i)) if !layers[i].1 => out.skipped.push(name),
            (false, _) => out.float.push(format!("{name} ({})", node.kernel)),
        }
    }
    let missing = layers.iter().zip(seen).filter(|(_, seen)| !seen);
    out.unseen = missing.map(|((name, _), _)| name.to_string()).collect();
    out
}

/// Whether an engine's node of several operators ends in this product of two values: OpenVINO computes the products of a head
/// of attention in one, and names it after the last of them, or the pair behind it. It does not speak of the first.
fn ends_in(node: &NodeProfile, product: &str, graph: &Graph) -> bool {
    let of_values = || graph.find(product).is_some_and(|id| graph.node(id).op.layer().is_none());
    node.op == FUSED && of_values()
}

/// Whether an engine's name is that of a layer, perhaps with something behind it: `conv1/WithoutBiases`,
/// `conv1_token_2`.
fn is_of(node: &str, layer: &str) -> bool {
    let node = node.strip_suffix(PAIR).unwrap_or(node);
    let next = node.strip_prefix(layer).map(|rest| rest.chars().next());
    next.is_some_and(|c| c.is_none_or(|c| !c.is_alphanumeric() && c != '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, MatMul, Reshape};
    use crate::quant::scheme::Scheme;
    use crate::strategy::{Purpose, Qat, Strategy, Target};
    use crate::{models, passes};

    fn node(name: &str, op: &str, precision: Precision) -> NodeProfile {
        NodeProfile { name: name.into(), op: op.into(), kernel: op.into(), precision, milliseconds: None }
    }

    #[test]
    fn layers_are_known_by_the_beginning_of_their_name() {
        assert!(
            is_of("conv1/WithoutBiases", "conv1") && is_of("conv1_token_2", "conv1") && is_of("fc", "fc")
        );
        assert!(!is_of("conv10", "conv1") && !is_of("layer1.0.conv1", "conv1") && !is_of("conv1.x", "conv1"));
    }

    #[test]
    fn products_of_attention_count_among_the_layers() {
        let (mut b, x) = Builder::new("Attention", [3, 8, 8]);
        let x = b.push("rows", Op::Reshape(Reshape { shape: vec![3, 64] }), &[x]).unwrap();
        let scores = b.push("scores", Op::MatMul(MatMul { transpose_b: true }), &[x, x]).unwrap();
        let scores = b.push("softmax", Op::Softmax, &[scores]).unwrap();
        let y = b.push("mix", Op::MatMul(MatMul { transpose_b: false }), &[scores, x]).unwrap();
        let y = b.push("row", Op::Flatten, &[y]).unwrap();
        let y = b.linear("fc", y, 2).unwrap();
        let network = b.finish(y).unwrap();
        let qat = Qat { target: Target::Openvino, ..Qat::default() };
        let quantized = |skip: &[&str]| {
            let skip = skip.iter().map(|s| s.to_string()).collect();
            let strategy = Strategy { qat: Some(Qat { skip, ..qat.clone() }), ..Strategy::default() };
            passes::run(network.clone(), &strategy, Purpose::Eval).unwrap()
        };
        let graph = quantized(&[]);
        let all = ["scores", "mix", "fc"];
        let separate = all.map(|name| node(name, "MatMulIntegerToFloat", Precision::Int8));
        let k = sort(&separate, &graph);
        assert_eq!((k.int8, k.unseen.len()), (3, 0));
        // One of them in floating point is at fault unless it was to be.
        let mut float = separate;
        float[0] = node("scores", "MatMul", Precision::Float);
        assert_eq!(sort(&float, &graph).float, ["scores (MatMul)"]);
        assert_eq!(sort(&float, &quantized(&["scores", "mix"])).skipped, ["scores"]);
        // OpenVINO's node of both, which it names after the pair behind them; others of its kind are no layers.
        let fused = ["mix.q", "softmax"].map(|name| node(name, "Subgraph", Precision::Int8));
        let k = sort(&fused, &graph);
        assert_eq!((k.int8, &k.unseen[..]), (1, &["scores".to_string(), "fc".into()][..]));
        let fused = [node("mix.q", "Subgraph", Precision::Float)];
        assert_eq!(sort(&fused, &graph).float, ["mix (Subgraph)"]);
    }

    #[test]
    fn what_is_not_int8_is_told_from_what_was_to_be_skipped() {
        let mut graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        for n in &mut graph.nodes {
            if let Some(layer) = n.op.layer_mut() {
                layer.scheme = (n.name != "conv1").then_some(Scheme::weight(8));
            }
        }
        let nodes = [
            node("conv1/WithoutBiases", "Convolution", Precision::Float),
            node("layer1.0.conv1_token_6", "QLinearConv", Precision::Int8),
            node("layer1.0.conv2", "Conv", Precision::Float),
            node("another", "Gemm", Precision::Float),
            node("layer1.0.relu", "Relu", Precision::Float),
            node("logits", "MatMul", Precision::Int8),
        ];
        let k = sort(&nodes, &graph);
        assert_eq!(k.skipped, ["conv1"]);
        assert_eq!(k.float, ["layer1.0.conv2 (Conv)", "another (Gemm)"]);
        assert_eq!(k.int8, 2);
        assert!(k.unseen.contains(&"layer3.0.conv1".to_string()) && !k.unseen.contains(&"fc".to_string()));
        assert!(!k.unseen.contains(&"conv1".to_string()));
    }
}
