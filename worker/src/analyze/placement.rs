//! What is quantized in a network, and the same network with less of it quantized.

use crate::graph::{Graph, GraphError};
use crate::passes;
use crate::quant::placement;
use crate::strategy::{Purpose, Strategy};

/// A node that computes with quantized inputs: what `--qat-skip` can leave in floating point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Name of the node.
    pub name: String,
    /// Its operator.
    pub op: &'static str,
    /// Its quantized weight; none for operators without one.
    pub weight: Option<String>,
    /// The quantizers whose values it reads.
    pub quantizers: Vec<String>,
    /// The node whose value counts as the layer's output: the BatchNorm that is folded into it, else itself.
    pub output: String,
}

/// A network as built, and how it is quantized.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The network before any pass.
    pub graph: Graph,
    /// What it is evaluated as.
    pub strategy: Strategy,
}

impl Placement {
    /// The quantized network, with these nodes left in floating point besides those of the recipe.
    pub fn skipping<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Graph, GraphError> {
        let mut strategy = self.strategy.clone();
        if let Some(qat) = &mut strategy.qat {
            qat.skip.extend(names.into_iter().map(str::to_string));
        }
        passes::run(self.graph.clone(), &strategy, Purpose::Eval)
    }

    /// The network with `name` alone quantized, of `layers`, which are all that can be.
    pub fn only(&self, layers: &[Layer], name: &str) -> Result<Graph, GraphError> {
        self.skipping(layers.iter().map(|l| l.name.as_str()).filter(|&n| n != name))
    }
}

/// The layers of a graph that has gone through its passes, in its order.
pub fn layers(graph: &Graph) -> Vec<Layer> {
    let plain = passes::strip_quantizers(graph);
    let quantizable = placement::quantizable(&plain);
    let mut out = Vec::new();
    for (id, node) in graph.iter() {
        let weight = match node.op.layer() {
            Some(layer) if layer.quantized() => Some(layer.weight.clone()),
            None if plain.find(&node.name).is_some_and(|id| quantizable[id.0]) => None,
            _ => continue,
        };
        let mut quantizers: Vec<String> =
            node.inputs.iter().filter_map(|&i| graph.quantizer_behind(i)).map(|q| q.name.clone()).collect();
        quantizers.dedup();
        if weight.is_none() && quantizers.is_empty() {
            continue;
        }
        let output = graph.batch_norm_behind(id).map_or(id, |(norm, _)| norm);
        let output = graph.node(output).name.clone();
        out.push(Layer { name: node.name.clone(), op: node.op.kind(), weight, quantizers, output });
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::models;
    use crate::strategy::{Layout, Qat, Target};

    pub fn placement(model: &str, side: usize, target: Target, skip: &[&str]) -> Placement {
        let skip = skip.iter().map(|s| s.to_string()).collect();
        let qat = Some(Qat { target, skip, ..Qat::default() });
        let strategy = Strategy { layout: Layout::Nchw, qat, ..Strategy::default() };
        Placement { graph: models::build(model, [3, side, side], 10).unwrap(), strategy }
    }

    fn quantized_weights(graph: &Graph) -> Vec<&str> {
        let weight = |op: &Op| op.layer().is_some_and(|layer| layer.quantized());
        graph.nodes.iter().filter(|n| weight(&n.op)).map(|n| n.name.as_str()).collect()
    }

    fn active(graph: &Graph) -> Vec<&str> {
        graph.quantizers().filter(|(_, q)| q.active).map(|(_, q)| q.name.as_str()).collect()
    }

    #[test]
    fn layers_are_what_reads_quantized_values() {
        let of = |target| {
            let p = placement("ResNet20", 32, target, &[]);
            layers(&p.skipping([]).unwrap())
        };
        let all = of(Target::Openvino);
        assert_eq!(all.iter().filter(|l| l.weight.is_some()).count(), 22);
        assert_eq!(all.iter().filter(|l| l.op == "Add").count(), 9);
        let conv = all.iter().find(|l| l.name == "layer1.0.conv2").unwrap();
        assert_eq!((conv.output.as_str(), conv.op), ("layer1.0.bn2", "Conv"));
        assert_eq!(conv.quantizers, ["layer1.0.bn1.relu"]);
        let fc = all.iter().find(|l| l.name == "fc").unwrap();
        assert_eq!((fc.output.as_str(), &fc.quantizers[..]), ("fc", &["avgpool".to_string()][..]));
        let add = |all: &[Layer]| all.iter().find(|l| l.name == "layer1.1.add").unwrap().quantizers.clone();
        assert_eq!(add(&all), ["layer1.0.relu"]);
        let all = of(Target::Onnxruntime);
        assert_eq!(add(&all), ["layer1.1.bn2", "layer1.0.relu"]);
        assert!(all.iter().any(|l| l.op == "GlobalAvgPool"));
    }

    #[test]
    fn a_layer_alone_keeps_its_own_quantizers_and_no_others() {
        for target in [Target::Openvino, Target::Onnxruntime, Target::Tensorrt] {
            for (model, side) in [("ResNet20", 32), ("ResNet18", 64), ("MobileNetV2-32px", 32)] {
                let p = placement(model, side, target, &[]);
                let all = layers(&p.skipping([]).unwrap());
                for layer in &all {
                    let alone = p.only(&all, &layer.name).unwrap();
                    let weights: Vec<&str> = layer.weight.iter().map(|_| layer.name.as_str()).collect();
                    assert_eq!(quantized_weights(&alone), weights, "{target:?} {}", layer.name);
                    let mut own: Vec<&str> = layer.quantizers.iter().map(String::as_str).collect();
                    let mut found = active(&alone);
                    own.sort();
                    found.sort();
                    assert_eq!(found, own, "{target:?} {}", layer.name);
                }
            }
        }
    }

    #[test]
    fn what_the_settings_skip_stays_skipped() {
        let p = placement("ResNet20", 32, Target::Openvino, &["conv1", "layer3.*"]);
        let all = layers(&p.skipping([]).unwrap());
        assert!(all.iter().all(|l| l.name != "conv1" && !l.name.starts_with("layer3.")), "{all:?}");
        let less = p.skipping(["fc"]).unwrap();
        assert_eq!(layers(&less).len(), all.len() - 1);
        let none = p.skipping(all.iter().map(|l| l.name.as_str())).unwrap();
        assert_eq!((layers(&none).len(), active(&none).len()), (0, 0));
    }
}
