//! From which layer of a file a node came that an engine has rewritten and named anew.

use super::output::maker;
use super::profile::computes_layer;
use octrain_formats::onnx::proto::GraphProto;

/// What an engine puts behind a name when it changes a node's layout.
const LAYOUTS: [&str; 2] = ["_nchwc", "_nhwc"];
/// What ONNX Runtime puts behind the value of a BatchNormalization that it computes as a convolution of each channel alone.
const NORM_AS_CONVOLUTION: &str = "_bn_nchwc";
/// What an engine computes together with the layer before it: operators of one value.
const FUSED: [&str; 8] =
    ["Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "BatchNormalization"];

/// The name of the layer that `name` stands for, where that is the name of a value of the file, as ONNX Runtime calls a
/// convolution that it has fused with what follows (`bn1.relu_nchwc` for `conv1`). None where it is a node's own name, or
/// no layer makes the value.
pub(super) fn layer_behind<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a str> {
    let plain = LAYOUTS.iter().find_map(|layout| name.strip_suffix(layout)).unwrap_or(name);
    let mut value = plain;
    // Every node is passed once at most.
    for _ in 0..=graph.node.len() {
        let node = maker(graph, value)?;
        match (node.op_type(), node.input.first()) {
            (op, _) if computes_layer(op) => return Some(node.name()),
            (op, Some(from)) if FUSED.contains(&op) => value = from,
            _ => return None,
        }
    }
    None
}

/// The name of the BatchNormalization of the file that a convolution of this name is; none of a convolution of the file.
pub(super) fn batch_norm_of<'a>(graph: &'a GraphProto, name: &str) -> Option<&'a str> {
    let norm = maker(graph, name.strip_suffix(NORM_AS_CONVOLUTION)?)?;
    (norm.op_type() == "BatchNormalization").then(|| norm.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use octrain_formats::onnx::proto::NodeProto;

    fn node(op: &str, name: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto::new(op, name, input, output, vec![])
    }

    #[test]
    fn a_batch_norm_that_is_computed_as_a_convolution_is_none() {
        let node = vec![
            node("Conv", "stem", &["image", "w"], "stem"),
            node("BatchNormalization", "bn", &["stem", "g", "b", "m", "v"], "bn.out"),
        ];
        let graph = GraphProto { node, ..GraphProto::default() };
        assert_eq!(batch_norm_of(&graph, "bn.out_bn_nchwc"), Some("bn"));
        for name in ["bn.out_nchwc", "stem_bn_nchwc", "stem", "other_bn_nchwc"] {
            assert_eq!(batch_norm_of(&graph, name), None, "{name}");
        }
    }

    #[test]
    fn a_fused_convolution_is_known_by_the_value_it_makes() {
        let graph = GraphProto {
            node: vec![
                node("Conv", "conv1", &["image", "w"], "conv1.out"),
                node("Relu", "bn1.relu", &["conv1.out"], "bn1.relu"),
                node("MaxPool", "pool", &["bn1.relu"], "pool"),
                node("Add", "add", &["pool", "bn1.relu"], "add"),
                node("Gemm", "fc", &["add", "w2"], "logits"),
            ],
            ..GraphProto::default()
        };
        for (name, layer) in [
            ("bn1.relu_nchwc", Some("conv1")),
            ("bn1.relu", Some("conv1")),
            ("conv1.out_nchwc", Some("conv1")),
            ("logits", Some("fc")),
            // What it is made from is not computed together with a layer.
            ("pool_nchwc", None),
            ("add", None),
            ("image", None),
            ("something else", None),
        ] {
            assert_eq!(layer_behind(&graph, name), layer, "{name}");
        }
    }
}
