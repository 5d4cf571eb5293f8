//! The list of passes on the networks there are.

use super::*;
use crate::graph::{Builder, ParamKind};
use crate::models;
use crate::quant::scheme::Scheme;
use crate::strategy::{Amp, Layout, Qat, Target};
use std::path::Path;

/// Quantization for `target`, and nothing else that a strategy can ask for.
pub(super) fn quantizing(target: Target, skip: &[&str]) -> Strategy {
    let skip = skip.iter().map(|s| s.to_string()).collect();
    Strategy {
        layout: Layout::Nchw,
        qat: Some(Qat { target, skip, ..Qat::default() }),
        ..Strategy::default()
    }
}

/// Compares with `tests/golden/FOLDER/NAME.txt`; `OCTRAIN_UPDATE_GOLDEN=1` writes it anew.
pub(super) fn golden(folder: &str, name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(folder)
        .join(format!("{name}.txt"));
    if std::env::var_os("OCTRAIN_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, want, "{name}: set OCTRAIN_UPDATE_GOLDEN=1 and read the difference");
}

#[test]
fn every_pass_on_every_target_is_as_recorded() {
    for (model, shape) in [
        ("ResNet20", [3, 32, 32]),
        ("ResNet18", [3, 64, 64]),
        ("ResNet50", [4, 224, 224]),
        ("MobileNetV2", [3, 224, 224]),
        ("MobileNetV3-Small", [3, 224, 224]),
        ("EfficientNet-B0", [3, 224, 224]),
        ("EfficientNet-Lite0", [3, 224, 224]),
        ("RegNetY-400MF", [3, 224, 224]),
        ("ViT-32px", [3, 32, 32]),
    ] {
        for &target in Target::ALL {
            let strategy = Strategy { amp: Amp::Bf16, layout: Layout::Nhwc, ..quantizing(target, &[]) };
            let graph = models::build(model, shape, 10).unwrap();
            let mut text = String::new();
            Passes::default()
                .run(graph, &strategy, Purpose::Train, |pass, graph| {
                    if model == "ResNet20" || pass.name() == Pass::MemoryLayout.name() {
                        text.push_str(&format!("after {}\n{graph}\n", pass.name()));
                    }
                })
                .unwrap();
            golden("passes", &format!("{model}-{target}").to_lowercase(), &text);
        }
    }
}

#[test]
fn a_quantizer_is_shared_by_all_edges_of_its_value_and_every_target_observes_the_same_values() {
    let mut seen = Vec::new();
    for &target in Target::ALL {
        let graph = models::build("ResNet18", [3, 64, 64], 10).unwrap();
        let graph = run(graph, &quantizing(target, &[]), Purpose::Train).unwrap();
        let mut names: Vec<String> = graph.quantizers().map(|(_, q)| q.name.clone()).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "a value has two quantizers");
        seen.push(names);
    }
    assert!(seen.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn skipped_nodes_stay_in_floating_point() {
    let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let graph = run(graph, &quantizing(Target::Openvino, &["conv1", "fc"]), Purpose::Train).unwrap();
    let conv = graph.node(graph.find("conv1").unwrap()).op.layer().unwrap();
    assert!(!conv.quantized());
    assert!(
        graph.quantizers().filter(|(_, q)| q.active).all(|(_, q)| q.name != "input" && q.name != "avgpool")
    );
}

#[test]
fn folding_leaves_no_batch_norm_and_all_parameters() {
    let graph = models::build("ResNet50", [3, 64, 64], 10).unwrap();
    let before = graph.params.clone();
    let graph = run(graph, &quantizing(Target::Openvino, &[]), Purpose::Export).unwrap();
    assert!(graph.nodes.iter().all(|n| !matches!(n.op, Op::BatchNorm(_))));
    assert!(graph.nodes.iter().all(|n| !matches!(&n.op, Op::Conv(c) if c.layer.folded.is_none())));
    assert_eq!(graph.params, before);
}

#[test]
fn a_batch_norm_folds_into_a_linear_layer_as_into_a_convolution() {
    let (mut b, x) = Builder::new("Dense", [3, 2, 2]);
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc1", x, 4).unwrap();
    let x = b.batch_norm("bn", x, ParamKind::Gamma).unwrap();
    let x = b.push("relu", Op::Relu, &[x]).unwrap();
    let x = b.linear("fc2", x, 3).unwrap();
    let graph = run(b.finish(x).unwrap(), &quantizing(Target::Openvino, &[]), Purpose::Export).unwrap();
    let layer = graph.node(graph.find("fc1").unwrap()).op.layer().unwrap();
    let read = ["fc1.weight", "fc1.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"];
    assert_eq!((layer.params(), graph.find("bn")), (read.to_vec(), None));
    assert!(graph.to_string().contains("fc1 = Linear[4x12 bias +bn int8](flatten)"), "{graph}");
}

#[test]
fn a_batch_norm_that_stands_apart_stays_and_what_it_reads_is_a_value_of_its_own() {
    let mut graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let add = graph.find("layer1.0.add").unwrap();
    // The convolution's own value is read besides its BatchNorm's.
    graph.nodes[add.0].inputs[1] = graph.find("layer1.0.conv2").unwrap();
    for target in Target::ALL {
        let deployed = run(graph.clone(), &quantizing(*target, &[]), Purpose::Export).unwrap();
        let norms = deployed.nodes.iter().filter(|n| matches!(n.op, Op::BatchNorm(_)));
        let norms: Vec<&Node> = norms.collect();
        assert_eq!(norms.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["layer1.0.bn2"]);
        // A runtime that wants integer neighbours computes the convolution in integers only with a pair right behind it.
        let quantized = deployed.quantizer_behind(norms[0].inputs[0]).is_some();
        assert_eq!(quantized, target.integer_neighbours(), "{target:?}:\n{deployed}");
    }
}

#[test]
fn what_the_output_does_not_need_is_dropped_with_its_parameters() {
    let (mut b, x) = Builder::new("Fork", [3, 4, 4]);
    let left = b.conv("left", x, 3, 3, 1).unwrap();
    let right = b.conv("right", x, 3, 3, 1).unwrap();
    b.push("unread", Op::Relu, &[right]).unwrap();
    let kept = b.push("kept", Op::Relu, &[left]).unwrap();
    let graph = run(b.finish(kept).unwrap(), &quantizing_nothing(), Purpose::Train).unwrap();
    let names = |n: &[String]| n.join(" ");
    let nodes: Vec<String> = graph.nodes.iter().map(|n| n.name.clone()).collect();
    let params: Vec<String> = graph.params.iter().map(|p| p.name.clone()).collect();
    assert_eq!((names(&nodes), names(&params)), ("input left kept".into(), "left.weight".into()));
    assert_eq!((graph.output, graph.node(NodeId(2)).inputs.clone()), (NodeId(2), vec![NodeId(1)]));
    // The input stays, whoever reads it.
    let (b, x) = Builder::new("Nothing", [3, 4, 4]);
    assert_eq!(run(b.finish(x).unwrap(), &quantizing_nothing(), Purpose::Train).unwrap().nodes.len(), 1);
}

fn quantizing_nothing() -> Strategy {
    Strategy { layout: Layout::Nchw, ..Strategy::default() }
}

#[test]
fn every_pass_says_what_it_does() {
    let mut said: Vec<&str> = Pass::ALL.iter().map(|pass| pass.what()).collect();
    assert!(said.iter().all(|what| what.split(' ').count() >= 3), "{said:?}");
    said.sort();
    said.dedup();
    assert_eq!(said.len(), Pass::ALL.len());
    assert!(Pass::DropDead.what().contains("does not depend on") && Pass::AmpCast.what().contains("BF16"));
}

/// A layer that passes cannot change.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
struct Sealed(crate::graph::Layer);

impl crate::graph::Operator for Sealed {
    fn kind(&self) -> &'static str {
        "Sealed"
    }

    fn infer(&self, given: &crate::graph::Given) -> Result<crate::graph::TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn layer(&self) -> Option<&crate::graph::Layer> {
        Some(&self.0)
    }
}

#[test]
fn a_layer_that_cannot_be_changed_is_refused_where_it_would_be_quantized() {
    let (mut b, x) = Builder::new("Shut", [3, 4, 4]);
    let weight = b.param("w", &[3, 3], ParamKind::ConvWeight);
    let x = b.push("shut", Op::custom(Sealed(crate::graph::Layer::new(weight, None))), &[x]).unwrap();
    let graph = b.finish(x).unwrap();
    run(graph.clone(), &Strategy::default(), Purpose::Train).unwrap();
    let said = run(graph, &quantizing(Target::Openvino, &[]), Purpose::Train).unwrap_err().to_string();
    assert!(said.contains("`shut` (Sealed)") && said.contains("without `layer_mut`"), "{said}");
}

/// A pass that tells when it ran.
struct Named(&'static str, Purpose);

impl GraphPass for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn what(&self) -> &str {
        "changes nothing"
    }

    fn apply(&self, graph: Graph, _: &Strategy) -> Result<Graph, GraphError> {
        Ok(graph)
    }

    fn runs(&self, _: &Strategy, network: &crate::graph::NetworkFacts, purpose: Purpose) -> bool {
        network.layers == 22 && purpose == self.1
    }
}

#[test]
fn passes_of_ones_own_run_where_they_were_put_and_for_what_they_say() {
    let passes = Passes::default()
        .before(Pass::QuantizeWeights, Named("a", Purpose::Train))
        .after(Pass::QuantizeWeights, Named("c", Purpose::Train))
        .before(Pass::QuantizeWeights, Named("b", Purpose::Train))
        .after(Pass::FoldBatchNorm, Named("z", Purpose::Export));
    let ran = |purpose| {
        let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let mut names = Vec::new();
        let strategy = quantizing(Target::Openvino, &[]);
        passes.run(graph, &strategy, purpose, |p, _| names.push(p.name().to_string())).unwrap();
        names
    };
    let quantize = ["quantize-activations", "observe-superset"];
    assert_eq!(
        ran(Purpose::Train),
        [&["drop-dead", "a", "b", "quantize-weights", "c"], &quantize[..]].concat()
    );
    let plain = ["drop-dead", "quantize-weights", "quantize-activations", "observe-superset"];
    assert_eq!(ran(Purpose::Export), [&plain[..], &["fold-batch-norm", "z"]].concat());
    assert!(format!("{passes:?}").starts_with("[\"drop-dead\", \"a\", \"b\","), "{passes:?}");
}

/// Gives one layer weights of so many bits.
struct Narrow(u32);

impl GraphPass for Narrow {
    fn name(&self) -> &str {
        "narrow"
    }

    fn what(&self) -> &str {
        "gives a layer a scheme of its own"
    }

    fn apply(&self, mut graph: Graph, _: &Strategy) -> Result<Graph, GraphError> {
        let id = graph.find("layer1.0.conv2").unwrap();
        graph.nodes[id.0].op.layer_mut().unwrap().scheme = Some(Scheme::weight(self.0));
        Ok(graph)
    }
}

#[test]
fn every_node_has_a_scheme_of_its_own() {
    let narrowed = |bits, purpose| {
        let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let passes = Passes::default().after(Pass::QuantizeWeights, Narrow(bits));
        passes.run(graph, &quantizing(Target::Onnxruntime, &["fc"]), purpose, |_, _| {})
    };
    for purpose in [Purpose::Train, Purpose::Eval, Purpose::Export] {
        let graph = narrowed(4, purpose).unwrap();
        let layer = |name| graph.node(graph.find(name).unwrap()).op.layer().unwrap();
        assert_eq!(layer("layer1.0.conv2").scheme, Some(Scheme::weight(4)));
        assert_eq!(layer("layer1.0.conv1").scheme, Some(Scheme::weight(8)));
        assert_eq!((layer("fc").scheme, layer("fc").integer_bias), (None, false));
        assert!(layer("conv1").integer_bias);
        let said = graph.to_string();
        assert!(said.matches(" int4]").count() == 1 && said.matches(" int8]").count() == 20, "{said}");
        let json = serde_json::to_string(&graph).unwrap();
        assert_eq!(serde_json::from_str::<Graph>(&json).unwrap(), graph);
    }
    let said = narrowed(9, Purpose::Train).unwrap_err().to_string();
    assert!(
        said.contains("`layer1.0.conv2` (Conv): weights are quantized") && said.contains("not 9 bits"),
        "{said}"
    );
    let seven = Strategy { qat: Some(Qat { weight_bits: 7, ..Qat::default() }), ..Strategy::default() };
    let graph = run(models::build("ResNet20", [3, 32, 32], 10).unwrap(), &seven, Purpose::Train).unwrap();
    assert_eq!(graph.to_string().matches(" int7]").count(), 22);
    assert!(graph.nodes.iter().filter_map(|n| n.op.layer()).all(|layer| !layer.integer_bias));
}

#[test]
fn an_activation_scheme_without_numerics_is_refused_by_name() {
    let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let mut graph = run(graph, &quantizing(Target::Openvino, &[]), Purpose::Train).unwrap();
    for node in &mut graph.nodes {
        if let Op::Quantize(q) = &mut node.op {
            q.scheme.bits = 4;
        }
    }
    let said = graph.verify().unwrap_err().to_string();
    assert!(said.contains("`input.quantize` (Quantize)") && said.contains("not 4 bits, signed"), "{said}");
}

#[test]
fn what_a_pass_makes_is_checked() {
    struct Broken;
    impl GraphPass for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn what(&self) -> &str {
            "reads a value that is made later"
        }
        fn apply(&self, mut graph: Graph, _: &Strategy) -> Result<Graph, GraphError> {
            graph.nodes[1].inputs[0] = NodeId(5);
            Ok(graph)
        }
    }
    let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let passes = Passes::default().after(Pass::DropDead, Broken);
    let e = passes.run(graph, &Strategy::default(), Purpose::Train, |_, _| {}).unwrap_err().to_string();
    assert!(e.contains("`conv1`") && e.contains("not made before it"), "{e}");
}

#[test]
fn a_weight_that_two_layers_read_is_refused() {
    let mut graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let [first, second] = ["layer1.0.conv1", "layer1.0.conv2"].map(|name| graph.find(name).unwrap());
    let weight = graph.node(first).op.layer().unwrap().weight.clone();
    graph.nodes[second.0].op.layer_mut().unwrap().weight = weight;
    let e = run(graph, &Strategy::default(), Purpose::Train).unwrap_err().to_string();
    assert!(e.contains("`layer1.0.conv2`") && e.contains("`layer1.0.conv1.weight`"), "{e}");
}
