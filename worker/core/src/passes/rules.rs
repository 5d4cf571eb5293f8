//! A golden graph for each placement rule, on the smallest graph it speaks of, for every target.

use super::run;
use super::tests::{golden, quantizing};
use crate::graph::{
    Builder, Clip, Concat, Given, Graph, GraphError, Layer, MatMul, NodeId, Op, Operator, ParamKind, Reshape,
    Scale, Site, Slice, Square, StochasticDepth, TensorType, Transpose, Window,
};
use crate::strategy::{Purpose, Target};

const TARGETS: [Target; 3] = [Target::Openvino, Target::Onnxruntime, Target::Tensorrt];

fn quantized(graph: Graph, target: Target, skip: &[&str]) -> Result<Graph, GraphError> {
    run(graph, &quantizing(target, skip), Purpose::Train)
}

fn rule(name: &str, graph: &Graph, skip: &[&str]) {
    let mut text = String::new();
    for target in TARGETS {
        let graph = quantized(graph.clone(), target, skip).unwrap();
        text.push_str(&format!("{}\n{graph}\n", target.name()));
    }
    golden("placement", name, &text);
}

fn conv_bn(b: &mut Builder, name: &str, x: NodeId, out: usize) -> NodeId {
    let y = b.conv(&format!("{name}.conv"), x, out, 3, 1).unwrap();
    b.batch_norm(&format!("{name}.bn"), y, ParamKind::Gamma).unwrap()
}

fn conv_bn_relu(b: &mut Builder, name: &str, x: NodeId, out: usize) -> NodeId {
    let y = conv_bn(b, name, x, out);
    b.push(&format!("{name}.relu"), Op::Relu, &[y]).unwrap()
}

/// Pooling, flattening and a classifier behind `x`.
fn head(mut b: Builder, x: NodeId) -> Graph {
    let x = b.push("avgpool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 3).unwrap();
    b.finish(x).unwrap()
}

#[test]
fn first_and_last_layer() {
    let (mut b, x) = Builder::new("FirstAndLast", [3, 8, 8]);
    let x = conv_bn_relu(&mut b, "first", x, 4);
    rule("first-and-last-layer", &head(b, x), &[]);
}

/// A residual block whose Add reads its branches in either order.
fn residual(reversed: bool) -> Graph {
    let (mut b, x) = Builder::new("Residual", [3, 8, 8]);
    let x = conv_bn_relu(&mut b, "stem", x, 4);
    let y = conv_bn_relu(&mut b, "branch1", x, 4);
    let y = conv_bn(&mut b, "branch2", y, 4);
    let inputs = if reversed { [x, y] } else { [y, x] };
    let sum = b.push("add", Op::Add, &inputs).unwrap();
    let sum = b.push("relu", Op::Relu, &[sum]).unwrap();
    head(b, sum)
}

#[test]
fn residual_add_with_identity() {
    rule("residual-add", &residual(false), &[]);
}

#[test]
fn the_order_of_an_adds_inputs_does_not_matter() {
    for target in TARGETS {
        let [a, b] = [false, true].map(|r| quantized(residual(r), target, &[]).unwrap());
        let names = |g: &Graph| {
            let mut n: Vec<_> = g.quantizers().map(|(_, q)| (q.name.clone(), q.active)).collect();
            n.sort();
            n
        };
        assert_eq!(names(&a), names(&b));
        // The branch itself is quantized only where every node wants integer neighbours.
        let branch = a.quantizers().any(|(_, q)| q.name == "branch2.bn" && q.active);
        assert_eq!(branch, target == Target::Onnxruntime);
    }
}

#[test]
fn an_input_that_several_layers_share_has_one_quantizer() {
    let (mut b, x) = Builder::new("SharedInput", [3, 8, 8]);
    let x = conv_bn_relu(&mut b, "stem", x, 4);
    let left = conv_bn(&mut b, "left", x, 4);
    let right = conv_bn(&mut b, "right", x, 4);
    let sum = b.push("add", Op::Add, &[left, right]).unwrap();
    rule("shared-input", &head(b, sum), &[]);
}

#[test]
fn pooling_and_flatten_hand_codes_on() {
    let (mut b, x) = Builder::new("Pooling", [3, 8, 8]);
    let x = conv_bn_relu(&mut b, "stem", x, 4);
    let x = b.push("maxpool", Op::MaxPool(Window { kernel: 2, stride: 2, padding: 0 }), &[x]).unwrap();
    let x = conv_bn_relu(&mut b, "second", x, 4);
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 3).unwrap();
    rule("pooling-and-flatten", &b.finish(x).unwrap(), &[]);
}

fn concat() -> Graph {
    let (mut b, x) = Builder::new("Concat", [3, 8, 8]);
    let x = conv_bn_relu(&mut b, "stem", x, 4);
    let left = conv_bn_relu(&mut b, "left", x, 4);
    let right = conv_bn_relu(&mut b, "right", x, 6);
    let joined = b.push("concat", Op::Concat(Concat { axis: 0 }), &[left, right, x]).unwrap();
    let x = conv_bn_relu(&mut b, "last", joined, 4);
    head(b, x)
}

#[test]
fn concat_is_quantized_where_it_is_read() {
    let graph = concat();
    assert_eq!(graph.node(graph.find("concat").unwrap()).ty.shape, [14, 8, 8]);
    rule("concat", &graph, &[]);
}

/// An inverted bottleneck of ReLU6, whose residual sum reads a linear convolution and an earlier sum's value.
#[test]
fn inverted_bottleneck() {
    let (mut b, x) = Builder::new("InvertedBottleneck", [3, 8, 8]);
    let x = conv_bn(&mut b, "stem", x, 4);
    let mut y = b.conv("expand.conv", x, 8, 1, 1).unwrap();
    y = b.batch_norm("expand.bn", y, ParamKind::Gamma).unwrap();
    y = b.push("expand.relu6", Op::Clip(Clip::RELU6), &[y]).unwrap();
    y = b.convolution("depthwise.conv", y, Square::depthwise(8, 3, 1)).unwrap();
    y = b.batch_norm("depthwise.bn", y, ParamKind::Gamma).unwrap();
    y = b.push("depthwise.relu6", Op::Clip(Clip::RELU6), &[y]).unwrap();
    y = b.conv("project.conv", y, 4, 1, 1).unwrap();
    y = b.batch_norm("project.bn", y, ParamKind::ResidualGamma).unwrap();
    y = b.push("depth", Op::StochasticDepth(StochasticDepth { p: 0.1 }), &[y]).unwrap();
    let sum = b.push("add", Op::Add, &[y, x]).unwrap();
    let sum = conv_bn_relu(&mut b, "last", sum, 4);
    rule("inverted-bottleneck", &head(b, sum), &[]);
}

/// A gate by channel, between two activations that are no ReLU.
#[test]
fn squeeze_and_excitation() {
    let (mut b, x) = Builder::new("Gated", [3, 8, 8]);
    let x = conv_bn(&mut b, "stem", x, 4);
    let x = b.push("stem.swish", Op::HardSwish, &[x]).unwrap();
    let mut s = b.push("squeeze", Op::GlobalAvgPool, &[x]).unwrap();
    s = b.convolution("fc1", s, Square::new(2, 1, 1).biased()).unwrap();
    s = b.push("fc1.silu", Op::Silu, &[s]).unwrap();
    s = b.convolution("fc2", s, Square::new(4, 1, 1).biased()).unwrap();
    s = b.push("gate", Op::HardSigmoid, &[s]).unwrap();
    let x = b.push("mul", Op::Mul, &[x, s]).unwrap();
    let x = conv_bn(&mut b, "last", x, 4);
    rule("squeeze-and-excitation", &head(b, x), &[]);
}

/// Products of tokens in integers between softmax, normalisation and a residual stream in floating point.
#[test]
fn attention_of_tokens() {
    let (mut b, x) = Builder::new("Attention", [3, 8, 8]);
    let x = b.conv("patches", x, 4, 4, 4).unwrap();
    let shape = vec![4, b.shape(x)[1] * b.shape(x)[2]];
    let x = b.push("flat", Op::Reshape(Reshape { shape }), &[x]).unwrap();
    let x = b.push("tokens", Op::Transpose(Transpose { perm: vec![1, 0] }), &[x]).unwrap();
    let y = b.layer_norm("norm", x, 1e-6).unwrap();
    let all = b.linear("qkv", y, 12).unwrap();
    let part = |start| Op::Slice(Slice { axis: 1, start, len: 4 });
    let q = b.push("q", part(0), &[all]).unwrap();
    let q = b.push("q.scale", Op::Scale(Scale { factor: 0.5 }), &[q]).unwrap();
    let k = b.push("k", part(4), &[all]).unwrap();
    let v = b.push("v", part(8), &[all]).unwrap();
    let scores = b.push("scores", Op::MatMul(MatMul { transpose_b: true }), &[q, k]).unwrap();
    let scores = b.push("softmax", Op::Softmax, &[scores]).unwrap();
    let y = b.push("mix", Op::MatMul(MatMul { transpose_b: false }), &[scores, v]).unwrap();
    let y = b.linear("proj", y, 4).unwrap();
    let y = b.push("gelu", Op::Gelu, &[y]).unwrap();
    let sum = b.push("add", Op::Add, &[x, y]).unwrap();
    let class = b.push("class", Op::Slice(Slice { axis: 0, start: 0, len: 1 }), &[sum]).unwrap();
    let row = b.push("row", Op::Flatten, &[class]).unwrap();
    let out = b.linear("fc", row, 3).unwrap();
    rule("attention", &b.finish(out).unwrap(), &[]);
}

/// A block of ConvNeXt: what convolutions make is read by operators that stay in floating point.
#[test]
fn convolutions_read_in_floating_point() {
    let (mut b, x) = Builder::new("ReadInFloat", [3, 8, 8]);
    let x = b.convolution("stem", x, Square::new(4, 1, 1).biased()).unwrap();
    let y = b.convolution("depthwise", x, Square::depthwise(4, 3, 1).biased()).unwrap();
    let y = b.push("last", Op::Transpose(Transpose { perm: vec![1, 2, 0] }), &[y]).unwrap();
    let y = b.layer_norm("norm", y, 1e-6).unwrap();
    let y = b.push("first", Op::Transpose(Transpose { perm: vec![2, 0, 1] }), &[y]).unwrap();
    let y = b.convolution("expand", y, Square::new(8, 1, 1).biased()).unwrap();
    let y = b.push("gelu", Op::Gelu, &[y]).unwrap();
    let y = conv_bn_relu(&mut b, "project", y, 4);
    let y = b.push("scale", Op::Scale(Scale { factor: 0.5 }), &[y]).unwrap();
    let sum = b.push("add", Op::Add, &[y, x]).unwrap();
    rule("read-in-floating-point", &head(b, sum), &[]);
}

/// Activations of what is made in floating point: a BatchNorm that stands apart, and sums of tokens.
#[test]
fn activations_of_floating_point() {
    let (mut b, x) = Builder::new("OfFloat", [3, 8, 8]);
    let x = b.conv("stem", x, 4, 3, 1).unwrap();
    let y = b.batch_norm("before", x, ParamKind::Gamma).unwrap();
    let y = b.push("before.silu", Op::Silu, &[y]).unwrap();
    let y = b.conv("conv", y, 4, 3, 1).unwrap();
    let x = b.push("add", Op::Add, &[y, x]).unwrap();
    let x = b.push("flat", Op::Reshape(Reshape { shape: vec![4, 64] }), &[x]).unwrap();
    let x = b.push("tokens", Op::Transpose(Transpose { perm: vec![1, 0] }), &[x]).unwrap();
    let y = b.linear("up", x, 4).unwrap();
    let y = b.push("up.swish", Op::HardSwish, &[y]).unwrap();
    let y = b.linear("down", y, 4).unwrap();
    let x = b.push("sum", Op::Add, &[y, x]).unwrap();
    let x = b.push("sum.swish", Op::HardSwish, &[x]).unwrap();
    let x = b.push("row", Op::Flatten, &[x]).unwrap();
    let out = b.linear("fc", x, 3).unwrap();
    rule("activations-of-floating-point", &b.finish(out).unwrap(), &[]);
}

/// A layer of somebody's own that is computed in floating point: its weight is a factor of each channel.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
struct Factors(Layer);

impl Operator for Factors {
    fn kind(&self) -> &'static str {
        "Factors"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    fn layer(&self) -> Option<&Layer> {
        Some(&self.0)
    }

    fn layer_mut(&mut self) -> Option<&mut Layer> {
        Some(&mut self.0)
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }
}

#[test]
fn a_mean_behind_a_layer_in_floating_point_reads_its_numbers() {
    let (mut b, x) = Builder::new("FloatLayer", [3, 8, 8]);
    let x = conv_bn_relu(&mut b, "stem", x, 4);
    let weight = b.param("factors.weight", &[4], ParamKind::Gamma);
    let x = b.push("factors", Op::custom(Factors(Layer::new(weight, None))), &[x]).unwrap();
    let x = b.push("factors.relu", Op::Relu, &[x]).unwrap();
    rule("mean-behind-float-layer", &head(b, x), &[]);
}

#[test]
fn what_reads_a_layer_in_floating_point_has_no_pair_before_it() {
    let graph = || {
        let (mut b, x) = Builder::new("FloatLayer", [3, 8, 8]);
        let x = conv_bn_relu(&mut b, "stem", x, 4);
        let weight = b.param("factors.weight", &[4], ParamKind::Gamma);
        let x = b.push("factors", Op::custom(Factors(Layer::new(weight, None))), &[x]).unwrap();
        let x = b.push("gelu", Op::Gelu, &[x]).unwrap();
        head(b, x)
    };
    for target in TARGETS {
        let made = quantized(graph(), target, &[]).unwrap();
        let active: Vec<&str> =
            made.quantizers().filter(|(_, q)| q.active).map(|(_, q)| q.name.as_str()).collect();
        assert!(!active.contains(&"factors") && active.contains(&"input"), "{target}: {active:?}");
    }
}

/// What no target quantizes is not left out of quantization: the pair before it is that of the convolution.
#[test]
fn a_skipped_batch_norm_that_stands_apart_is_refused_and_within_a_pattern_changes_nothing() {
    let graph = || {
        let (mut b, x) = Builder::new("Preactivated", [3, 8, 8]);
        let x = b.conv("stem", x, 4, 3, 1).unwrap();
        let y = b.batch_norm("block.first", x, ParamKind::Gamma).unwrap();
        let y = b.push("block.relu", Op::Relu, &[y]).unwrap();
        let y = conv_bn(&mut b, "block", y, 4);
        let sum = b.push("add", Op::Add, &[y, x]).unwrap();
        head(b, sum)
    };
    for target in TARGETS {
        let told = |skip| quantized(graph(), target, &[skip]).unwrap_err().to_string();
        for (skip, parts) in [
            ("block.first", ["`block.first` (BatchNorm)", "stays in floating point"].as_slice()),
            ("block.second", &["matches no node"]),
            ("block.relu", &["`block.relu` (Relu)", "in the type of what it reads"]),
        ] {
            let told = told(skip);
            assert!(parts.iter().chain(&["`qat.skip`"]).all(|part| told.contains(part)), "{told}");
        }
        let active = |skip: &[&str]| {
            let made = quantized(graph(), target, skip).unwrap();
            made.quantizers().filter(|(_, q)| q.active).map(|(_, q)| q.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(active(&["block.*"]), active(&["block.conv"]), "{target}");
    }
    let folded = quantized(residual(false), Target::Openvino, &["branch2.bn"]).unwrap_err().to_string();
    assert!(folded.contains("folded into `branch2.conv`"), "{folded}");
}

#[test]
fn skipped_layers_keep_floating_point_around_them() {
    rule("qat-skip", &concat(), &["left.conv", "fc", "concat"]);
}

/// An operator of which only the shape is known.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
struct Gate;

impl Operator for Gate {
    fn kind(&self) -> &'static str {
        "Gate"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }
}

#[test]
fn an_operator_without_a_rule_is_an_error_that_names_the_remedy() {
    let (mut b, x) = Builder::new("Gated", [3, 8, 8]);
    let x = conv_bn(&mut b, "stem", x, 4);
    let x = b.push("gate", Op::custom(Gate), &[x]).unwrap();
    let graph = head(b, x);
    for target in TARGETS {
        let e = quantized(graph.clone(), target, &[]).unwrap_err().to_string();
        assert!(e.contains("`gate` (Gate)") && e.contains("`qat.skip`") && e.contains(target.name()), "{e}");
    }
    rule("operator-without-rule-skipped", &graph, &["gate"]);
}

#[test]
fn values_that_cannot_be_joined_are_refused() {
    let (mut b, x) = Builder::new("Concat", [3, 8, 8]);
    let small = b.conv("small", x, 4, 3, 2).unwrap();
    let e = b.push("concat", Op::Concat(Concat { axis: 0 }), &[x, small]).unwrap_err().to_string();
    assert!(e.contains("`concat`") && e.contains("joins"), "{e}");
}
