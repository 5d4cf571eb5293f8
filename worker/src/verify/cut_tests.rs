use super::*;

/// A file with the exporter's names: `(operator, name, inputs, output)`.
fn file(nodes: &[(&str, &str, &[&str], &str)], half: &[&str]) -> ModelProto {
    let node = nodes
        .iter()
        .map(|(op, name, inputs, output)| NodeProto::new(op, name, inputs, output, vec![]))
        .collect::<Vec<_>>();
    let made: Vec<&str> = nodes.iter().map(|n| n.3).chain(["input", ""]).collect();
    let mut names: Vec<&str> =
        nodes.iter().flat_map(|n| n.2.iter().copied()).filter(|i| !made.contains(i)).collect();
    names.sort_unstable();
    names.dedup();
    let tensor = |name: &&str| match half.contains(name) {
        true => TensorProto::halves(name, &[], f16::from_f32(0.5).to_le_bytes().to_vec()),
        false => TensorProto::floats(name, &[], &[0.25]),
    };
    ModelProto {
        ir_version: Some(8),
        graph: Some(GraphProto {
            node,
            initializer: names.iter().map(tensor).collect(),
            input: vec![ValueInfoProto::batch("input", &[3, 8, 8])],
            output: vec![ValueInfoProto::batch("logits", &[10])],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// input -Q- conv1 -> relu -Q- conv2 -> add(relu's pair) -> logits
fn residual() -> Vec<(&'static str, &'static str, &'static [&'static str], &'static str)> {
    vec![
        ("QuantizeLinear", "input.q", &["input", "input.scale", "zero"], "input.codes"),
        ("DequantizeLinear", "input.dq", &["input.codes", "input.scale", "zero"], "input.dequantized"),
        ("DequantizeLinear", "w1.dq", &["w1.codes", "w1.scale", "zero"], "w1"),
        ("Conv", "conv1", &["input.dequantized", "w1", "b1"], "conv1"),
        ("Relu", "relu", &["conv1"], "relu"),
        ("QuantizeLinear", "relu.q", &["relu", "relu.scale", "zero"], "relu.codes"),
        ("DequantizeLinear", "relu.dq", &["relu.codes", "relu.scale", "zero"], "relu.dequantized"),
        ("DequantizeLinear", "w2.dq", &["w2.codes", "w2.scale", "zero"], "w2"),
        ("Conv", "conv2", &["relu.dequantized", "w2", "b2"], "conv2"),
        ("Add", "add", &["conv2", "relu.dequantized"], "add"),
        ("Identity", "output", &["add"], "logits"),
    ]
}

fn names(cut: &Cut) -> Vec<&str> {
    cut.nodes.iter().map(|n| n.name()).collect()
}

fn fed(cut: &Cut) -> Vec<&str> {
    cut.inputs.iter().map(|f| f.value.as_str()).collect()
}

#[test]
fn a_layer_reaches_from_pair_to_pair() {
    let cuts = cuts(&file(&residual(), &[])).unwrap();
    let all: Vec<&str> = cuts.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(all, ["input", "relu", LOGITS]);
    assert_eq!(names(&cuts[0]), ["input.q", "input.dq", "out"]);
    assert_eq!(cuts[0].inputs, [Fed { tensor: "input".into(), value: "input".into() }]);
    assert_eq!(
        names(&cuts[1]),
        ["input.q", "input.dq", "w1.dq", "conv1", "relu", "relu.q", "relu.dq", "input.seen", "out"]
    );
    assert_eq!((fed(&cuts[1]), cuts[1].scale), (vec!["input"], Some(0.25)));
    // The skip branch and the convolution read one pair: it is in the layer once.
    assert_eq!(names(&cuts[2]), ["relu.q", "relu.dq", "w2.dq", "conv2", "add", "output", "relu.seen", "out"]);
    assert_eq!((fed(&cuts[2]), cuts[2].scale), (vec!["relu"], None));
    let tensors: Vec<&str> = cuts[2].tensors.iter().map(|t| t.name()).collect();
    assert_eq!(tensors, ["b2", "relu.scale", "w2.codes", "w2.scale", "zero"]);
}

#[test]
fn a_cut_network_is_closed() {
    for cut in cuts(&file(&residual(), &[])).unwrap() {
        let shapes: Vec<_> = cut.inputs.iter().map(|_| vec![2, 3]).collect();
        let graph = cut.network(&shapes, &[2, 10]).graph.unwrap();
        let mut known: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        known.extend(graph.input.iter().map(|i| i.name()));
        for node in &graph.node {
            assert!(node.input.iter().all(|i| known.contains(i.as_str())), "{}: {:?}", cut.name, node);
            known.extend(node.output.iter().map(String::as_str));
        }
        assert!(graph.output.iter().all(|o| known.contains(o.name())));
        assert_eq!(graph.output[0], ValueInfoProto::fixed("out", &[2, 10]));
        assert_eq!(graph.input[0], ValueInfoProto::fixed(&cut.inputs[0].tensor, &[2, 3]));
    }
}

#[test]
fn clipped_codes_are_part_of_their_pair() {
    let mut nodes = residual();
    nodes[6] = ("DequantizeLinear", "relu.dq", &["relu.clipped", "relu.scale", "zero"], "relu.dequantized");
    nodes.insert(6, ("Clip", "relu.clip", &["relu.codes", "", "max_code"], "relu.clipped"));
    let cuts = cuts(&file(&nodes, &[])).unwrap();
    assert_eq!(cuts[1].name, "relu");
    assert!(
        names(&cuts[1]).ends_with(&["relu.q", "relu.clip", "relu.dq", "input.seen", "out"]),
        "{:?}",
        names(&cuts[1])
    );
    assert!(names(&cuts[2]).starts_with(&["relu.q", "relu.clip", "relu.dq"]), "{:?}", names(&cuts[2]));
    assert!(cuts[2].tensors.iter().any(|t| t.name() == "max_code"));
    assert_eq!(fed(&cuts[2]), ["relu"]);
}

#[test]
fn a_pair_with_an_fp16_scale_is_fed_fp32() {
    let cuts = cuts(&file(&residual(), &["relu.scale"])).unwrap();
    assert_eq!(cuts[1].scale, Some(0.5));
    assert_eq!(names(&cuts[2])[..2], ["relu.fed.fp16", "relu.q"]);
    assert_eq!(cuts[2].inputs[0].tensor, "relu.fed");
    assert_eq!(cuts[2].nodes[1].input[0], "relu.fed.fp16");
}

#[test]
fn a_first_layer_in_floating_point_reads_the_images_and_the_walk_ends_there() {
    let mut nodes = residual();
    nodes.drain(..3);
    nodes[0] = ("Conv", "conv1", &["input", "w1", "b1"], "conv1");
    let cuts = cuts(&file(&nodes, &[])).unwrap();
    assert_eq!(cuts.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["relu", LOGITS]);
    assert_eq!(
        (names(&cuts[0]), fed(&cuts[0])),
        (vec!["conv1", "relu", "relu.q", "relu.dq", "out"], vec!["input"])
    );
}

#[test]
fn files_of_others_are_refused() {
    let mut nodes = residual();
    nodes[5].1 = "quantize_7";
    assert!(cuts(&file(&nodes, &[])).unwrap_err().to_string().contains("quantize_7"));
    assert!(cuts(&ModelProto::default()).unwrap_err().to_string().contains("no graph"));
    let mut broken = file(&residual(), &[]);
    broken.graph.as_mut().unwrap().initializer.retain(|t| t.name() != "b2");
    assert!(cuts(&broken).unwrap_err().to_string().contains("`b2`"));
}
