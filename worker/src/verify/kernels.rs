//! The layers of the network among the kernels that an engine ran.

use crate::engine::NodeProfile;
use crate::export::OUTPUT;
use crate::graph::Graph;

/// Convolutions and linear layers by what the engine computes them in.
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

/// Sorts the engine's nodes by the layers of the training graph.
pub fn sort(nodes: &[NodeProfile], graph: &Graph) -> Kernels {
    let layers: Vec<(&str, bool)> =
        graph.nodes.iter().filter_map(|n| Some((n.name.as_str(), n.op.layer()?.quantized()))).collect();
    let mut out = Kernels::default();
    let mut seen = vec![false; layers.len()];
    for node in nodes.iter().filter(|n| n.is_layer()) {
        let names = |layer: &str| {
            is_of(&node.name, layer) || (is_of(&node.name, OUTPUT) && last(graph) == Some(layer))
        };
        let layer = (0..layers.len()).filter(|&i| names(layers[i].0)).max_by_key(|&i| layers[i].0.len());
        if let Some(i) = layer {
            seen[i] = true;
        }
        let name = layer.map_or_else(|| node.name.clone(), |i| layers[i].0.to_string());
        match (node.is_float_layer(), layer) {
            (false, _) => out.int8 += 1,
            (true, Some(i)) if !layers[i].1 => out.skipped.push(name),
            (true, _) => out.float.push(format!("{name} ({})", node.kernel)),
        }
    }
    let missing = layers.iter().zip(seen).filter(|(_, seen)| !seen);
    out.unseen = missing.map(|((name, _), _)| name.to_string()).collect();
    out
}

/// Whether an engine's name is that of a layer, perhaps with something behind it: `conv1/WithoutBiases`,
/// `conv1_token_2`.
fn is_of(node: &str, layer: &str) -> bool {
    let next = node.strip_prefix(layer).map(|rest| rest.chars().next());
    next.is_some_and(|c| c.is_none_or(|c| !c.is_alphanumeric() && c != '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Precision;
    use crate::models;
    use crate::quant::scheme::Scheme;

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
