//! What a graph says of itself, and what is wrong with a malformed one.

use super::*;
use crate::models;
use crate::passes;
use crate::quant::scheme::{Scheme, Sign};
use crate::strategy::{Amp, Purpose, Qat, Strategy};

/// A stem whose value is read twice, a quantizer that observes, one that quantizes, and a classifier.
fn small() -> Graph {
    let (mut b, x) = Builder::new("Small", [3, 4, 4]);
    let x = b.conv("conv", x, 2, 3, 2).unwrap();
    let x = b.batch_norm("bn", x, ParamKind::ResidualGamma).unwrap();
    let quantizer = |name: &str, active| {
        let scheme = Scheme::activation(Sign::Signed);
        Op::Quantize(Quantizer { name: name.into(), scheme, active })
    };
    let x = b.push("bn.quantize", quantizer("bn", true), &[x]).unwrap();
    let y = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let y = b.push("flatten.observe", quantizer("flatten", false), &[y]).unwrap();
    let y = b.linear("fc", y, 5).unwrap();
    b.finish(y).unwrap()
}

fn id(graph: &Graph, name: &str) -> NodeId {
    graph.find(name).unwrap()
}

#[test]
fn values_know_their_readers_and_the_quantizer_behind_them() {
    let g = small();
    assert_eq!((g.input(), g.find("nothing"), g.output), (NodeId(0), None, id(&g, "fc")));
    let readers = g.consumers();
    assert_eq!(readers[id(&g, "bn").0], [(id(&g, "bn.quantize"), 0)]);
    assert!(readers[g.output.0].is_empty());
    let behind = |name: &str| g.quantizer_behind(id(&g, name)).map(|q| q.name.as_str());
    assert_eq!((behind("flatten.observe"), behind("bn.quantize")), (Some("bn"), Some("bn")));
    assert_eq!((behind("bn"), behind("fc"), behind("input")), (None, None, None));
    assert_eq!(g.quantizers().map(|(_, q)| q.name.as_str()).collect::<Vec<_>>(), ["bn", "flatten"]);
}

#[test]
fn a_batch_norm_is_behind_a_layer_that_only_it_reads() {
    let g = small();
    let behind =
        |g: &Graph, name: &str| g.batch_norm_behind(id(g, name)).map(|(id, _)| g.node(id).name.clone());
    assert_eq!(behind(&g, "conv"), Some("bn".into()));
    assert_eq!(g.batch_norm_behind(id(&g, "conv")).unwrap().1.gamma, "bn.weight");
    for none in ["input", "bn", "flatten", "fc"] {
        assert_eq!(behind(&g, none), None, "{none}");
    }
    let mut read_twice = g.clone();
    let flatten = id(&g, "flatten");
    read_twice.nodes[flatten.0].inputs[0] = id(&g, "conv");
    assert_eq!(behind(&read_twice, "conv"), None);
    let returned = Graph { output: id(&g, "conv"), ..g.clone() };
    assert_eq!(behind(&returned, "conv"), None);
    let mut folded = g.clone();
    let Op::BatchNorm(norm) = folded.node(id(&g, "bn")).op.clone() else { panic!() };
    let conv = id(&g, "conv");
    folded.nodes[conv.0].op.layer_mut().unwrap().folded = Some(norm);
    assert_eq!(behind(&folded, "conv"), None, "there is one in it already");
}

#[test]
fn rerouting_reaches_all_readers_and_the_output() {
    let mut g = small();
    let [bn, conv, fc] = ["bn", "conv", "fc"].map(|name| id(&g, name));
    g.reroute(bn, conv);
    assert_eq!(g.node(id(&g, "bn.quantize")).inputs, [conv]);
    g.reroute(fc, bn);
    assert_eq!(g.output, bn);
}

#[test]
fn liveness_is_what_the_output_depends_on() {
    let (mut b, x) = Builder::new("Fork", [3, 4, 4]);
    let left = b.conv("left", x, 3, 3, 1).unwrap();
    let right = b.conv("right", x, 3, 3, 1).unwrap();
    let unread = b.push("unread", Op::Relu, &[right]).unwrap();
    let g = b.finish(left).unwrap();
    assert_eq!(g.live(), [true, true, false, false]);
    assert_eq!(Graph { output: unread, ..g }.live(), [true, false, true, true]);
}

#[test]
fn parameters_are_what_they_are() {
    use ParamKind::*;
    let trained = [ConvWeight, LinearWeight, Bias, Gamma, ResidualGamma, Beta, LayerScale, Embedding];
    let all = [&trained[..], &[RunningMean, RunningVar]].concat();
    let of = |f: &dyn Fn(ParamKind) -> bool| all.iter().copied().filter(|&k| f(k)).collect::<Vec<_>>();
    assert_eq!(of(&ParamKind::trainable), trained);
    let groups = DecayGroup::ALL.map(|group| of(&|kind| kind.decay_group() == Some(group)));
    let norms = vec![Gamma, ResidualGamma, Beta, LayerScale];
    assert_eq!(groups, [vec![ConvWeight, LinearWeight], norms, vec![Bias], vec![Embedding]]);
    let g = small();
    let kinds: Vec<ParamKind> = g.params.iter().map(|p| p.kind).collect();
    assert_eq!(kinds, [ConvWeight, ResidualGamma, Beta, RunningMean, RunningVar, LinearWeight, Bias]);
    assert_eq!(g.parameter_count(), 2 * 3 * 9 + 2 + 2 + 5 * 8 + 5);
    assert_eq!(g.trainable().count(), 5);
    let weight = g.param("fc.weight").unwrap();
    assert_eq!((weight.len(), weight.is_empty(), g.param("fc.gamma")), (40, false, None));
    let empty = Param { shape: vec![3, 0], ..weight.clone() };
    assert_eq!((empty.len(), empty.is_empty()), (0, true));
    let Op::BatchNorm(norm) = &g.node(id(&g, "bn")).op else { panic!() };
    assert_eq!((norm.eps, norm.momentum), (1e-5, 0.1));
}

#[test]
fn a_network_in_numbers() {
    let network = NetworkFacts::of(&small());
    let want = NetworkFacts { name: "Small".into(), parameters: 103, layers: 2, batch_norms: 1 };
    assert_eq!(network, want);
    let network = NetworkFacts::of(&models::build("ResNet20", [3, 32, 32], 10).unwrap());
    assert_eq!((network.layers, network.batch_norms), (22, 21));
}

#[test]
fn the_picture_tells_by_colour_what_is_quantized_cast_and_observed() {
    let g = small();
    let dot = g.to_dot();
    assert!(dot.starts_with("digraph \"Small\" {\n") && dot.ends_with("}\n"), "{dot}");
    let line = |dot: &str, name: &str| {
        let found = dot.lines().find(|l| l.contains(&format!("label=\"{name}\\n")));
        found.unwrap_or_else(|| panic!("{name} in {dot}")).to_string()
    };
    assert_eq!(
        line(&dot, "conv"),
        "  n1 [label=\"conv\\nConv[2x3x3x3 s2 p1]\\nf32[N,2,2,2]\" fillcolor=\"#a9c7ee\"];"
    );
    assert!(
        line(&dot, "bn.quantize").contains("#ffd27f") && line(&dot, "flatten.observe").contains("#fff3d6")
    );
    assert!(line(&dot, "flatten").contains("#f2f2f2"));
    assert!(dot.contains("\n  n3 -> n4;\n") && !dot.contains("-> n0;"), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), 6);
    let strategy = Strategy { amp: Amp::Bf16, qat: Some(Qat::default()), ..Strategy::default() };
    let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let dot = passes::run(graph, &strategy, Purpose::Train).unwrap().to_dot();
    assert!(line(&dot, "conv1").contains("#9fd6a0") && line(&dot, "input.cast").contains("#e0c8ee"));
}

#[test]
fn what_is_malformed_is_said() {
    type Change = fn(&mut Graph);
    let cases: [(Change, &str); 12] = [
        (|g| g.nodes.clear(), "the first node is not the input"),
        (|g| g.nodes[0].op = Op::Relu, "the first node is not the input"),
        (|g| g.output = NodeId(7), "its output is node 7 of 7"),
        (|g| g.nodes[2].name = "conv".into(), "two nodes are named `conv`"),
        (|g| g.nodes[4].op = Op::Input, "`flatten` is a second input"),
        (|g| g.nodes[6].ty.shape = vec![6], "node `fc` (Linear): is typed f32[N,6] but makes f32[N,5]"),
        (|g| g.nodes[6].ty.dtype = DType::F16, "is typed f16[N,5]"),
        (|g| g.params[1] = g.params[2].clone(), "parameter `bn.weight` is not declared"),
        (|g| g.params.push(g.params[0].clone()), "two parameters are named `conv.weight`"),
        (
            |g| g.params.push(Param { name: "more".into(), ..g.params[0].clone() }),
            "no node reads parameter `more`",
        ),
        (|g| g.nodes[6].inputs = vec![NodeId(5), NodeId(5)], "node `fc` (Linear): takes 1 inputs, has 2"),
        (
            |g| g.nodes[4].inputs = vec![NodeId(4)],
            "node `flatten` (Flatten): reads `flatten`, which is not made before it",
        ),
    ];
    for (change, want) in cases {
        let mut graph = small();
        graph.verify().unwrap();
        change(&mut graph);
        let said = graph.verify().unwrap_err().to_string();
        assert!(said.contains(want), "{want}: {said}");
    }
    // Its own last node is one.
    assert_eq!(small().output, NodeId(6));
}

#[test]
fn retyping_infers_what_passes_left_open() {
    let mut g = small();
    g.nodes[6].ty = TensorType { shape: vec![], dtype: DType::F32 };
    assert_eq!(g.retype().unwrap(), small());
}
