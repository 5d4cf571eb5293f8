//! What becomes of small files: graphs, names, and all that is refused at once.

use super::{Task, Translated, network};
use crate::graph::Op;
use octrain_formats::onnx::File;
use octrain_formats::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use prost::Message;
use std::collections::BTreeMap;

mod not_finite;
mod once;
mod softmax;

/// A file of these nodes from `x` `[N,3,8,8]` to `y` `[N,5]`.
fn file(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = GraphProto {
        node,
        initializer,
        input: vec![ValueInfoProto::batch("x", &[3, 8, 8])],
        output: vec![ValueInfoProto::batch("y", &[5])],
        ..GraphProto::default()
    };
    ModelProto::new(graph, 17)
}

fn of(model: &ModelProto) -> Result<Translated, Vec<String>> {
    let file = File::decode(&model.encode_to_vec()).unwrap();
    network(&file.read(&BTreeMap::new()), "Net", None, Task::Classifier)
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto::new(op, output, inputs, output, vec![])
}

fn with(mut node: NodeProto, attributes: Vec<AttributeProto>) -> NodeProto {
    node.attribute = attributes;
    node
}

fn number(name: &str, value: f32) -> TensorProto {
    TensorProto::floats(name, &[], &[value])
}

fn weight(name: &str, dims: &[usize]) -> TensorProto {
    let len = dims.iter().product::<usize>();
    TensorProto::floats(name, dims, &(0..len).map(|i| i as f32 / len as f32 - 0.4).collect::<Vec<_>>())
}

/// The operators behind the input of a network in which `between` leads from `a` to `b`, both `[N,4,8,8]`.
fn between(between: Vec<NodeProto>, more: Vec<TensorProto>) -> Vec<String> {
    let nodes = [
        vec![node("Conv", &["x", "first.weight"], "a")],
        between,
        vec![
            node("GlobalAveragePool", &["b"], "c"),
            node("Flatten", &["c"], "d"),
            node("Gemm", &["d", "w"], "y"),
        ],
    ];
    let tensors = [vec![weight("first.weight", &[4, 3, 1, 1]), weight("w", &[4, 5])], more].concat();
    let made = of(&file(nodes.concat(), tensors)).unwrap_or_else(|why| panic!("{why:?}"));
    let kinds: Vec<String> = made.graph.nodes.iter().map(|n| n.op.kind().to_string()).collect();
    assert_eq!(
        (&kinds[..2], &kinds[kinds.len() - 3..]),
        (
            &["Input".to_string(), "Conv".into()][..],
            &["GlobalAvgPool".to_string(), "Flatten".into(), "Linear".into()][..]
        )
    );
    kinds[2..kinds.len() - 3].to_vec()
}

#[test]
fn what_exporters_write_of_one_operator_is_that_operator() {
    let three = || [number("three", 3.0), number("zero", 0.0), number("six", 6.0)];
    let shifted = || vec![node("Add", &["a", "three"], "s"), node("Clip", &["s", "zero", "six"], "t")];
    let gate = |more: Vec<NodeProto>| [shifted(), more].concat();
    let erf = || {
        vec![node("Div", &["a", "root"], "e1"), node("Erf", &["e1"], "e2"), node("Add", &["e2", "one"], "e3")]
    };
    let half = || vec![number("root", std::f32::consts::SQRT_2), number("one", 1.0), number("half", 0.5)];
    for (nodes, tensors, wanted) in [
        (vec![node("Sigmoid", &["a"], "s"), node("Mul", &["a", "s"], "b")], vec![], "Silu"),
        (
            gate(vec![node("Div", &["t", "six"], "u"), node("Mul", &["a", "u"], "b")]),
            three().to_vec(),
            "HardSwish",
        ),
        (
            gate(vec![node("Mul", &["t", "a"], "u"), node("Div", &["u", "six"], "b")]),
            three().to_vec(),
            "HardSwish",
        ),
        (gate(vec![node("Div", &["t", "six"], "b")]), three().to_vec(), "HardSigmoid"),
        (vec![node("Clip", &["a", "zero", "six"], "b")], three().to_vec(), "Clip"),
        (vec![node("Min", &["a", "six"], "s"), node("Max", &["s", "zero"], "b")], three().to_vec(), "Clip"),
        (vec![node("Max", &["a", "zero"], "b")], three().to_vec(), "Relu"),
        (
            [erf(), vec![node("Mul", &["a", "e3"], "m"), node("Mul", &["m", "half"], "b")]].concat(),
            half(),
            "Gelu",
        ),
        (
            [erf(), vec![node("Mul", &["a", "half"], "m"), node("Mul", &["m", "e3"], "b")]].concat(),
            half(),
            "Gelu",
        ),
        (
            [erf(), vec![node("Mul", &["e3", "half"], "m"), node("Mul", &["a", "m"], "b")]].concat(),
            half(),
            "Gelu",
        ),
    ] {
        assert_eq!(between(nodes, tensors), [wanted]);
    }
    // A layer's norm, over the last dimension of whatever stands there.
    let mean = |from: &str, to: &str| {
        with(node("ReduceMean", &[from], to), vec![AttributeProto::ints("axes", vec![-1])])
    };
    let norm = vec![
        mean("a", "mu"),
        node("Sub", &["a", "mu"], "off"),
        node("Pow", &["off", "two"], "q"),
        mean("q", "v"),
        node("Add", &["v", "eps"], "ve"),
        node("Sqrt", &["ve"], "sd"),
        node("Div", &["off", "sd"], "n"),
        node("Mul", &["n", "gamma"], "g"),
        node("Add", &["g", "beta"], "b"),
    ];
    let tensors = vec![number("two", 2.0), number("eps", 1e-6), weight("gamma", &[8]), weight("beta", &[8])];
    assert_eq!(between(norm, tensors), ["LayerNorm"]);
}

#[test]
fn padding_and_biases_become_those_of_the_layer() {
    let pads = |values: &[i64]| TensorProto::longs("pads", &[8], values);
    let conv = || node("Conv", &["p", "second.weight"], "b");
    let second = || weight("second.weight", &[4, 4, 2, 2]);
    let pad = || node("Pad", &["a", "pads"], "p");
    assert_eq!(between(vec![pad(), conv()], vec![second(), pads(&[0, 0, 1, 1, 0, 0, 0, 0])]), ["Conv"]);
    // Also read by another: it stays.
    let twice = vec![
        pad(),
        node("Conv", &["p", "second.weight"], "o"),
        with(node("AveragePool", &["p"], "q"), vec![AttributeProto::ints("kernel_shape", vec![2, 2])]),
        node("Add", &["o", "q"], "b"),
    ];
    let kinds = between(twice, vec![second(), pads(&[0, 0, 1, 1, 0, 0, 0, 0])]);
    assert_eq!(kinds, ["Pad", "Conv", "AvgPool", "Add"]);
    // Computed of the image's size, as a traced padding of TensorFlow's is: 8 - 7 behind it.
    let computed = vec![
        node("Shape", &["a"], "s"),
        with(node("Gather", &["s", "two"], "side"), vec![AttributeProto::int("axis", 0)]),
        node("Sub", &["side", "seven"], "one"),
        with(node("Concat", &["none", "one", "one"], "pads"), vec![AttributeProto::int("axis", 0)]),
        pad(),
        conv(),
    ];
    let numbers = [("two", &[2][..]), ("seven", &[7]), ("none", &[0; 6])];
    let numbers = numbers.map(|(name, all)| TensorProto::longs(name, &[all.len()], all));
    assert_eq!(between(computed, [vec![second()], numbers.to_vec()].concat()), ["Conv"]);
    let biased = vec![
        with(
            node("Conv", &["a", "second.weight"], "o"),
            vec![AttributeProto::ints("pads", vec![0, 0, 1, 1])],
        ),
        node("Add", &["o", "second.bias"], "b"),
    ];
    assert_eq!(between(biased, vec![second(), weight("second.bias", &[1, 4, 1, 1])]), ["Conv"]);
}

#[test]
fn parameters_keep_their_names_and_layers_have_those_of_their_modules() {
    let nodes = vec![
        node("Conv", &["x", "layer1.conv.weight"], "a"),
        node(
            "BatchNormalization",
            &["a", "layer1.bn.weight", "layer1.bn.bias", "layer1.bn.running_mean", "layer1.bn.running_var"],
            "b",
        ),
        node("Relu", &["b"], "/layer1/relu"),
        node("GlobalAveragePool", &["/layer1/relu"], "c"),
        node("Flatten", &["c"], "d"),
        node("MatMul", &["d", "fc.weight"], "e"),
        node("Add", &["e", "fc.bias"], "f"),
        with(node("Softmax", &["f"], "y"), vec![AttributeProto::int("axis", 1)]),
    ];
    let norms = ["weight", "bias", "running_mean", "running_var"]
        .map(|word| weight(&format!("layer1.bn.{word}"), &[4]));
    let tensors = [
        &[weight("layer1.conv.weight", &[4, 3, 3, 3]), weight("fc.weight", &[4, 5]), weight("fc.bias", &[5])]
            [..],
        &norms,
    ];
    let mut apart = nodes.clone();
    (apart[1].input[0], apart[2].input[0], apart[3].input[0]) =
        ("/layer1/relu".into(), "a".into(), "b".into());
    apart.swap(1, 2);
    let apart = of(&file(apart, tensors.concat())).unwrap().notes.join("\n");
    assert!(
        apart.contains("keep these BatchNorms") && apart.contains("nothing else reads: layer1.bn"),
        "{apart}"
    );
    let Translated { graph, state, notes } = of(&file(nodes, tensors.concat())).unwrap();
    let names: Vec<&str> = graph.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["input", "layer1.conv", "layer1.bn", "/layer1/relu", "c", "d", "fc"]);
    assert_eq!(state.len(), 7);
    let fc = &state["fc.weight"];
    // `[in, out]` of the file is `[out, in]` here.
    assert_eq!((fc.shape.as_slice(), fc.data[1]), (&[5, 4][..], 5.0 / 20.0 - 0.4));
    assert!(
        notes.iter().any(|n| n.contains("Softmax")) && !notes.iter().any(|n| n.contains("BatchNorm")),
        "{notes:?}"
    );
    crate::checkpoint::match_weights(&graph, &state).is_empty().then_some(()).unwrap();
}

#[test]
fn a_batch_norm_in_training_is_refused_in_every_operator_set_and_half_is_true() {
    let mut norm = node("BatchNormalization", &["x", "g", "b", "m", "v"], "a");
    norm.output.extend(["mean", "var", "saved_mean", "saved_var"].map(String::from));
    let tensors = ["g", "b", "m", "v"].map(|name| weight(name, &[3])).to_vec();
    let mut model = file(vec![norm, node("Flatten", &["a"], "y")], tensors);
    model.opset_import[0].version = Some(11);
    let told = of(&model).unwrap_err().join("\n");
    assert!(told.contains("it normalises as in training"), "{told}");
    let to = |name: &str, input: &str, kind| {
        with(node("Cast", &[input], name), vec![AttributeProto::int("to", kind)])
    };
    let nodes = vec![
        to("truth", "half", 9),
        to("one", "truth", 1),
        node("Mul", &["x", "one"], "a"),
        node("GlobalAveragePool", &["a"], "b"),
        node("Flatten", &["b"], "c"),
        node("Gemm", &["c", "w"], "y"),
    ];
    let made = of(&file(nodes, vec![number("half", 0.5), weight("w", &[3, 5])])).unwrap();
    let zero = |op: &Op| matches!(op, Op::Scale(scale) if scale.factor == 0.0);
    assert!(!made.graph.nodes.iter().any(|n| zero(&n.op)), "{}", made.graph);
}

#[test]
fn what_only_looks_like_the_usual_is_told_from_it() {
    let head = |last: Vec<NodeProto>, bias: TensorProto| {
        let nodes = vec![
            node("GlobalAveragePool", &["x"], "b"),
            node("Flatten", &["b"], "c"),
            node("Gemm", &["c", "w", "bias"], "logits"),
        ];
        of(&file([nodes, last].concat(), vec![weight("w", &[3, 5]), bias]))
    };
    let of_outputs = || weight("bias", &[1, 5]);
    let softmax = |axis| with(node("Softmax", &["logits"], "p"), vec![AttributeProto::int("axis", axis)]);
    let copies = || {
        [node("Identity", &["p"], "q"), with(node("Cast", &["q"], "y"), vec![AttributeProto::int("to", 1)])]
    };
    let scores = head(vec![node("Sigmoid", &["logits"], "y")], of_outputs()).unwrap().notes.join("\n");
    assert!(scores.contains("the Sigmoid at its end stays"), "{scores}");
    let last = |axis| [&[softmax(axis)][..], &copies()].concat();
    // A Softmax behind which only copies stand is the network's last; one over the images is none.
    let made = head(last(1), of_outputs()).unwrap();
    assert_eq!(made.graph.node(made.graph.output).op.kind(), "Linear");
    assert!(head(last(0), of_outputs()).is_err());
    // As many numbers as outputs, but one for each image.
    let told = head(last(1), weight("bias", &[5, 1])).unwrap_err().join("\n");
    assert!(told.contains("adds numbers of shape [5, 1]"), "{told}");
    let mean = |counted| {
        let attributes = vec![
            AttributeProto::ints("kernel_shape", vec![2, 2]),
            AttributeProto::ints("strides", vec![2, 2]),
            AttributeProto::ints("pads", vec![1, 1, 0, 0]),
            AttributeProto::int("ceil_mode", 1),
            AttributeProto::int("count_include_pad", counted),
        ];
        let nodes = vec![
            with(node("AveragePool", &["x"], "a"), attributes),
            node("Flatten", &["a"], "c"),
            node("Gemm", &["c", "w"], "y"),
        ];
        of(&file(nodes, vec![weight("w", &[75, 5])])).map_err(|why| why.join("\n"))
    };
    // 1 + 8 rows hold 4 windows of 2; rounded up there is a fifth, which reaches beyond.
    let told = mean(1).unwrap_err();
    assert!(told.contains("reach beyond the padding"), "{told}");
}

/// A graph of few bytes that asks for much memory or time is refused, or done at once.
#[test]
fn small_files_that_want_much_are_refused_or_read_at_once() {
    let shape = TensorProto::longs("shape", &[1], &[1 << 22]);
    let mut nodes = vec![node("ConstantOfShape", &["shape"], "c0")];
    nodes.extend((0..12).map(|i| node("Identity", &[&format!("c{i}")], &format!("c{}", i + 1))));
    nodes.extend([node("Add", &["x", "c12"], "a"), node("Flatten", &["a"], "y")]);
    let told = of(&file(nodes, vec![shape])).unwrap_err().join("\n");
    assert!(told.contains("which is more than a network has"), "{told}");
    // Every value is read twice: walking back from the last of them would take 2^60 steps.
    let pool = |pads: Vec<i64>| {
        let attributes =
            vec![AttributeProto::ints("kernel_shape", vec![3, 3]), AttributeProto::ints("pads", pads)];
        with(node("MaxPool", &["v60"], "b"), attributes)
    };
    let doubled = |pads: Vec<i64>| {
        let mut nodes = vec![node("Relu", &["a"], "v0")];
        nodes.extend((0..60).map(|i| {
            let (from, to) = (format!("v{i}"), format!("v{}", i + 1));
            node("Add", &[&from, &from], &to)
        }));
        nodes.push(pool(pads));
        nodes
    };
    assert_eq!(between(doubled(vec![0, 0, 1, 1]), vec![]).len(), 1 + 60 + 2);
    let all = [
        vec![node("Conv", &["x", "w"], "a")],
        doubled(vec![i64::MAX; 4]),
        vec![node("Flatten", &["b"], "y")],
    ];
    let told = of(&file(all.concat(), vec![weight("w", &[4, 3, 1, 1])])).unwrap_err().join("\n");
    assert!(told.contains("its attribute `pads`"), "{told}");
    let axes = TensorProto::longs("axes", &[40_000], &(0..40_000).collect::<Vec<_>>());
    let nodes = vec![node("Unsqueeze", &["x", "axes"], "a"), node("Flatten", &["a"], "y")];
    let told = of(&file(nodes, vec![axes])).unwrap_err().join("\n");
    assert!(told.contains("16 dimensions at most"), "{told}");
}

#[test]
fn all_that_is_not_taken_is_told_at_once_with_the_nodes() {
    let mut model = file(
        vec![
            node("LRN", &["x"], "a"),
            node("Conv", &["a", "w"], "b"),
            node("LRN", &["b"], "c"),
            node("Conv", &["x", "x"], "d"),
            with(node("Softmax", &["x"], "e"), vec![AttributeProto::int("axis", 1)]),
            node("QuantizeLinear", &["x", "s"], "q"),
            node("QLinearConv", &["q"], "r"),
            node("LeakyRelu", &["x"], "l"),
            node("Flatten", &["x"], "f"),
            NodeProto { domain: Some("com.microsoft".into()), ..node("FusedConv", &["x"], "m") },
            node("Concat", &["c", "d", "e", "r", "l", "f", "m"], "y"),
        ],
        vec![weight("w", &[4, 3, 1, 1]), number("s", 1.0)],
    );
    let told = of(&model).unwrap_err();
    let all = told.join("\n");
    for part in [
        "node `a` (LRN), node `c` (LRN), node `l` (LeakyRelu): is no operator that is taken",
        "node `d` (Conv): its weight is computed from the image",
        "node `e` (Softmax): it is not along the last dimension",
        "node `q` (QuantizeLinear), node `r` (QLinearConv): is of a file that is quantized already",
        "node `m` (com.microsoft.FusedConv): is an operator of the domain `com.microsoft`",
    ] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
    assert_eq!(told.len(), 5, "{all}");
    model.opset_import[0].version = Some(23);
    let graph = model.graph.as_mut().unwrap();
    graph.input.push(ValueInfoProto::batch("z", &[3]));
    graph.output.push(ValueInfoProto::batch("a", &[3]));
    let all = of(&model).unwrap_err().join("\n");
    for part in [
        "version 23",
        "2 inputs besides its weights (x, z)",
        "2 outputs (y, a)",
        "(LRN)",
        "quantized already",
    ] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
}

#[test]
fn sizes_other_than_the_batch_must_be_known() {
    let nodes = || {
        vec![
            node("GlobalAveragePool", &["x"], "c"),
            node("Flatten", &["c"], "d"),
            node("Gemm", &["d", "w"], "y"),
        ]
    };
    let mut model = file(nodes(), vec![weight("w", &[3, 5])]);
    let open = ValueInfoProto::batch("x", &[3, 0, 0]);
    model.graph.as_mut().unwrap().input = vec![open];
    let told = of(&model).unwrap_err().join("\n");
    assert!(told.contains("its dimension 2 is open") && told.contains("shape of an image"), "{told}");
    let decoded = File::decode(&model.encode_to_vec()).unwrap().read(&BTreeMap::new());
    let made = network(&decoded, "Net", Some([3, 16, 16]), Task::Classifier).unwrap();
    assert_eq!(made.graph.nodes[0].ty.shape, [3, 16, 16]);
    // Channels last, as TensorFlow has them: the file turns the image, and both turns cancel.
    let turn = with(node("Transpose", &["x"], "t"), vec![AttributeProto::ints("perm", vec![0, 3, 1, 2])]);
    let mut nodes = nodes();
    nodes[0].input[0] = "t".into();
    nodes.insert(0, turn);
    let mut model = file(nodes, vec![weight("w", &[3, 5])]);
    model.graph.as_mut().unwrap().input = vec![ValueInfoProto::batch("x", &[8, 8, 3])];
    let made = of(&model).unwrap();
    let kinds: Vec<&str> = made.graph.nodes.iter().map(|n| n.op.kind()).collect();
    assert_eq!(kinds, ["Input", "GlobalAvgPool", "Flatten", "Linear"]);
    let other = (&[3, 8, 12][..], "its images are 8 by 12 pixels; square ones");
    for (shape, part) in [(&[1, 8, 8][..], "it has 1 channels"), other, (&[3, 8], "images come as [N,C,H,W]")]
    {
        model.graph.as_mut().unwrap().input = vec![ValueInfoProto::batch("x", shape)];
        assert!(of(&model).unwrap_err().join("\n").contains(part), "{part}");
    }
}

/// A generator of its own, so that what fails can be made again: xorshift.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as usize
}

#[test]
fn whatever_a_file_says_translating_it_does_not_panic() {
    let rounds = std::env::var("OCTRAIN_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let ints = |name: &str, values: &[i64]| AttributeProto::ints(name, values.to_vec());
    let nodes = vec![
        with(node("Pad", &["x", "pads"], "p"), vec![]),
        with(node("Conv", &["p", "k"], "a"), vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])]),
        node("Clip", &["a", "zero", "six"], "b"),
        with(
            node("MaxPool", &["b"], "m"),
            vec![
                ints("kernel_shape", &[2, 2]),
                ints("strides", &[2, 2]),
                AttributeProto::int("ceil_mode", 1),
            ],
        ),
        node("Shape", &["m"], "s"),
        with(node("Gather", &["s", "index"], "n"), vec![AttributeProto::int("axis", 0)]),
        with(node("Concat", &["n", "rest"], "t"), vec![AttributeProto::int("axis", 0)]),
        node("Reshape", &["m", "t"], "f"),
        with(node("Transpose", &["f"], "u"), vec![ints("perm", &[0, 2, 1])]),
        node("Slice", &["u", "from", "to", "axes"], "v"),
        with(node("Split", &["v"], "w1"), vec![AttributeProto::int("axis", 2)]),
        with(node("ReduceMean", &["w1"], "r"), vec![ints("axes", &[1]), AttributeProto::int("keepdims", 0)]),
        with(node("Gemm", &["r", "w"], "y"), vec![AttributeProto::int("transB", 1)]),
    ];
    let tensors = vec![
        TensorProto::longs("pads", &[8], &[0, 0, 0, 0, 0, 0, 1, 1]),
        weight("k", &[4, 3, 3, 3]),
        number("zero", 0.0),
        number("six", 6.0),
        TensorProto::longs("index", &[1], &[0]),
        TensorProto::longs("rest", &[2], &[4, -1]),
        TensorProto::longs("from", &[1], &[0]),
        TensorProto::longs("to", &[1], &[4]),
        TensorProto::longs("axes", &[1], &[1]),
        weight("w", &[5, 4]),
    ];
    let model = file(nodes, tensors);
    of(&model).unwrap_or_else(|why| panic!("{why:?}"));
    let whole = model.encode_to_vec();
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..1 + random(&mut seed) % 4 {
            let at = random(&mut seed) % bytes.len();
            match random(&mut seed) % 3 {
                0 => bytes[at] = random(&mut seed) as u8,
                1 => bytes[at] ^= 1 << (random(&mut seed) % 8),
                _ => bytes[at] = [0, 1, 2, 3, 4, 0xff][random(&mut seed) % 6],
            }
        }
        let Ok(file) = File::decode(&bytes) else { continue };
        let model = file.read(&BTreeMap::new());
        for task in [Task::Classifier, Task::Function] {
            let _ = network(&model, "Net", Some([3, 8, 8]), task);
        }
    }
}
