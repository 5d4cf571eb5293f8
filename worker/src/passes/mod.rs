//! One ordered, named list of graph passes. Train, eval and export obtain their graph from it; the coordinator's
//! plan says which are on, and why.

mod amp_cast;
mod drop_dead;
mod edit;
mod fold_batch_norm;
mod memory_layout;
mod observe_superset;
mod quantize_activations;
mod quantize_weights;

use crate::config::{Amp, DataLayout, Target};
use crate::graph::{Graph, GraphError, Node, NodeId, Op};

/// What the passes need to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Runtime whose placement rules hold.
    pub target: Target,
    /// `--qat-skip` patterns.
    pub skip: Vec<String>,
    /// Bits of weight codes.
    pub weight_bits: u32,
    /// Compute precision.
    pub amp: Amp,
    /// Memory order.
    pub layout: DataLayout,
}

/// Whether a pass runs, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Name of the pass.
    pub name: String,
    /// On or off.
    pub on: bool,
    /// Why.
    pub reason: String,
}

/// One pass.
pub struct Pass {
    /// Its name in plans, dumps and golden files.
    pub name: &'static str,
    /// What it does, in one line.
    pub what: &'static str,
    /// The rewrite.
    pub apply: fn(Graph, &Settings) -> Result<Graph, GraphError>,
}

/// All passes, in the order they run.
pub const PASSES: &[Pass] = &[
    Pass { name: "drop-dead", what: "removes nodes the output does not depend on", apply: drop_dead::apply },
    Pass {
        name: "quantize-weights",
        what: "marks the weights of Conv and Linear INT8, symmetric, per output channel",
        apply: quantize_weights::apply,
    },
    Pass {
        name: "quantize-activations",
        what: "places activation quantizers by the target's rules",
        apply: quantize_activations::apply,
    },
    Pass {
        name: "observe-superset",
        what: "observes what other targets would quantize, so that every profile can be written",
        apply: observe_superset::apply,
    },
    Pass { name: "amp-cast", what: "computes in BF16 or FP16; logits in FP32", apply: amp_cast::apply },
    Pass { name: "memory-layout", what: "keeps activations channels-last", apply: memory_layout::apply },
    Pass {
        name: "fold-batch-norm",
        what: "folds every BatchNorm into its convolution (export only: exact, weight codes unchanged)",
        apply: fold_batch_norm::apply,
    },
];

/// Runs the passes that are on, in the list's order, whatever the order of `decisions`; a pass without a
/// decision is off. `watch` sees the graph after each pass that ran. A decision on a pass that does not exist
/// is an error.
pub fn run(
    graph: Graph,
    decisions: &[Decision],
    settings: &Settings,
    mut watch: impl FnMut(&Pass, &Graph),
) -> Result<Graph, GraphError> {
    if let Some(unknown) = decisions.iter().find(|d| PASSES.iter().all(|p| p.name != d.name)) {
        return Err(GraphError::UnknownPass(unknown.name.clone()));
    }
    let mut graph = graph;
    for pass in PASSES {
        if decisions.iter().any(|d| d.name == pass.name && d.on) {
            graph = (pass.apply)(graph, settings)?.retype()?;
            watch(pass, &graph);
        }
    }
    Ok(graph)
}

/// The graph without its activation quantizers: what placement rules look at.
fn strip_quantizers(graph: &Graph) -> Graph {
    let mut new_id = Vec::with_capacity(graph.nodes.len());
    let mut nodes = Vec::new();
    for node in &graph.nodes {
        if matches!(node.op, Op::Quantize(_)) {
            new_id.push(new_id[node.inputs[0].0]);
            continue;
        }
        let inputs = node.inputs.iter().map(|i| new_id[i.0]).collect();
        new_id.push(NodeId(nodes.len()));
        nodes.push(Node { inputs, ..node.clone() });
    }
    Graph { nodes, output: new_id[graph.output.0], ..graph.clone() }
}

#[cfg(test)]
mod rules;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::models;
    use std::path::Path;

    pub(super) fn all(names: &[&str]) -> Vec<Decision> {
        names.iter().map(|&n| Decision { name: n.into(), on: true, reason: String::new() }).collect()
    }

    /// Compares with `tests/golden/FOLDER/NAME.txt`; `OCTRAIN_UPDATE_GOLDEN=1` writes it anew.
    pub(super) fn golden(folder: &str, name: &str, text: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/golden")
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
        for (model, shape) in
            [("ResNet20", [3, 32, 32]), ("ResNet18", [3, 64, 64]), ("ResNet50", [4, 224, 224])]
        {
            for target in [Target::Openvino, Target::Onnxruntime, Target::Tensorrt] {
                let settings = Settings {
                    target,
                    skip: Vec::new(),
                    weight_bits: 8,
                    amp: Amp::Bf16,
                    layout: DataLayout::Nhwc,
                };
                let graph = models::build(model, shape, 10).unwrap();
                let names: Vec<&str> =
                    PASSES.iter().map(|p| p.name).filter(|&n| n != "fold-batch-norm").collect();
                let mut text = String::new();
                run(graph, &all(&names), &settings, |pass, graph| {
                    if model == "ResNet20" || pass.name == "memory-layout" {
                        text.push_str(&format!("after {}\n{graph}\n", pass.name));
                    }
                })
                .unwrap();
                golden("passes", &format!("{model}-{target:?}").to_lowercase(), &text);
            }
        }
    }

    #[test]
    fn a_quantizer_is_shared_by_all_edges_of_its_value_and_every_target_observes_the_same_values() {
        let mut seen = Vec::new();
        for target in [Target::Openvino, Target::Onnxruntime, Target::Tensorrt] {
            let settings = Settings {
                target,
                skip: Vec::new(),
                weight_bits: 8,
                amp: Amp::Off,
                layout: DataLayout::Nhwc,
            };
            let graph = models::build("ResNet18", [3, 64, 64], 10).unwrap();
            let graph = run(
                graph,
                &all(&["quantize-weights", "quantize-activations", "observe-superset"]),
                &settings,
                |_, _| {},
            )
            .unwrap();
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
        let settings = Settings {
            target: Target::Openvino,
            skip: vec!["conv1".into(), "fc".into()],
            weight_bits: 8,
            amp: Amp::Off,
            layout: DataLayout::Nhwc,
        };
        let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let graph =
            run(graph, &all(&["quantize-weights", "quantize-activations"]), &settings, |_, _| {}).unwrap();
        let Op::Conv(conv) = &graph.node(graph.find("conv1").unwrap()).op else { panic!() };
        assert!(!conv.quantized);
        assert!(graph.quantizers().all(|(_, q)| q.name != "input" && q.name != "avgpool"));
    }

    #[test]
    fn the_coordinator_decides_on_these_passes_in_this_order() {
        let names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
        assert_eq!(names, octrain_coordinator::strategy::passes::ORDER);
    }

    #[test]
    fn folding_leaves_no_batch_norm_and_all_parameters() {
        let settings = Settings {
            target: Target::Openvino,
            skip: Vec::new(),
            weight_bits: 8,
            amp: Amp::Off,
            layout: DataLayout::Nhwc,
        };
        let graph = models::build("ResNet50", [3, 64, 64], 10).unwrap();
        let before = graph.params.clone();
        let names = ["quantize-weights", "quantize-activations", "observe-superset", "fold-batch-norm"];
        let graph = run(graph, &all(&names), &settings, |_, _| {}).unwrap();
        assert!(graph.nodes.iter().all(|n| !matches!(n.op, Op::BatchNorm(_))));
        assert!(graph.nodes.iter().all(|n| !matches!(&n.op, Op::Conv(c) if c.folded.is_none())));
        assert_eq!(graph.params, before);
    }

    #[test]
    fn a_batch_norm_that_cannot_be_folded_is_an_error_that_names_it() {
        let settings = Settings {
            target: Target::Openvino,
            skip: Vec::new(),
            weight_bits: 8,
            amp: Amp::Off,
            layout: DataLayout::Nhwc,
        };
        let mut graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let add = graph.find("layer1.0.add").unwrap();
        // The convolution's own value is read besides its BatchNorm's.
        graph.nodes[add.0].inputs[1] = graph.find("layer1.0.conv2").unwrap();
        let e = run(graph, &all(&["fold-batch-norm"]), &settings, |_, _| {}).unwrap_err().to_string();
        assert!(e.contains("layer1.0.bn2"), "{e}");
    }

    #[test]
    fn a_pass_the_worker_does_not_have_is_refused() {
        let settings = Settings {
            target: Target::Openvino,
            skip: Vec::new(),
            weight_bits: 8,
            amp: Amp::Off,
            layout: DataLayout::Nhwc,
        };
        let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        assert!(run(graph, &all(&["no-such-pass"]), &settings, |_, _| {}).is_err());
    }
}
