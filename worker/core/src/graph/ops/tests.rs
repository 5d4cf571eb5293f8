//! The table, read as a table; and the shape rule of every operator on what fits and what does not.

mod of_today;

use super::*;
use crate::graph::{DType, Initializer, Param, ParamKind, TensorType};
use crate::quant::scheme::{Scheme, Sign};
use crate::strategy::Target;

fn conv(groups: usize) -> Op {
    let layer = Layer::new("w", Some("b".into()));
    let padding = Padding::symmetric([1, 0]);
    Op::Conv(Conv { layer, stride: [2, 1], padding, dilation: [1, 1], groups })
}

fn linear() -> Op {
    Op::Linear(Linear { layer: Layer::new("fc", None) })
}

fn norm() -> Op {
    let [gamma, beta, mean, var] = ["g"; 4].map(String::from);
    Op::BatchNorm(BatchNorm { gamma, beta, mean, var, eps: 1e-5, momentum: 0.1 })
}

const CONCAT: Op = Op::Concat(Concat { axis: 0 });

fn pool(kernel: usize, stride: usize, padding: usize) -> Op {
    Op::MaxPool(Window { kernel, stride, padding })
}

fn quantizer(active: bool) -> Op {
    Op::Quantize(Quantizer { name: "x".into(), scheme: Scheme::activation(Sign::Signed), active })
}

fn params() -> Vec<Param> {
    let shapes: [(&str, &[usize]); 7] = [
        ("w", &[6, 2, 3, 3]),
        ("b", &[6]),
        ("g", &[4]),
        ("fc", &[5, 8]),
        ("d", &[8]),
        ("token", &[1, 1, 8]),
        ("positions", &[1, 3, 8]),
    ];
    let param = |(name, shape): (&str, &[usize])| Param {
        name: name.into(),
        shape: shape.to_vec(),
        kind: ParamKind::ConvWeight,
        initializer: Initializer::default(),
    };
    shapes.map(param).into()
}

/// Shape and type of the operator's value, or what does not fit.
fn inferred(op: &Op, inputs: &[&[usize]]) -> Result<(Vec<usize>, DType), String> {
    let ty = |shape: &&[usize]| TensorType { shape: shape.to_vec(), dtype: DType::Bf16 };
    let (types, params) = (inputs.iter().map(ty).collect::<Vec<_>>(), params());
    assert!(op.facts().arity().allows(inputs.len()), "{op:?}");
    let declared = ty(&&[1usize][..]);
    let given = Given { declared: &declared, inputs: types.iter().collect(), shapes: Shapes::new(&params) };
    op.facts().infer(&given).map(|t| (t.shape, t.dtype))
}

#[test]
fn shapes_follow_from_each_operators_rule() {
    let image: &[usize] = &[4, 8, 6];
    let same = (image.to_vec(), DType::Bf16);
    assert_eq!(inferred(&Op::Input, &[]), Ok((vec![1], DType::Bf16)));
    // (8 + 2 - 3) / 2 + 1 = 4 and 6 - 3 + 1 = 4; it computes in its own type.
    assert_eq!(inferred(&conv(2), &[image]), Ok((vec![6, 4, 4], DType::F32)));
    assert_eq!(inferred(&linear(), &[&[8]]), Ok((vec![5], DType::F32)));
    assert_eq!(inferred(&pool(2, 2, 1), &[image]), Ok((vec![4, 5, 4], DType::Bf16)));
    // A window as wide as the side has one place.
    assert_eq!(inferred(&pool(6, 1, 0), &[image]), Ok((vec![4, 3, 1], DType::Bf16)));
    assert_eq!(inferred(&Op::GlobalAvgPool, &[image]), Ok((vec![4, 1, 1], DType::Bf16)));
    assert_eq!(inferred(&Op::Flatten, &[image]), Ok((vec![192], DType::Bf16)));
    assert_eq!(inferred(&CONCAT, &[image, &[1, 8, 6], image]), Ok((vec![9, 8, 6], DType::Bf16)));
    assert_eq!(inferred(&Op::Cast(Cast { to: DType::F16 }), &[image]), Ok((image.to_vec(), DType::F16)));
    for op in [norm(), Op::Relu, Op::Sigmoid, quantizer(true), quantizer(false)] {
        assert_eq!(inferred(&op, &[image]), Ok(same.clone()), "{op:?}");
    }
    assert_eq!(inferred(&Op::Add, &[image, image]), Ok(same));
}

#[test]
fn what_does_not_fit_is_said() {
    let image: &[usize] = &[4, 8, 6];
    let cases: [(Op, &[&[usize]], &str); 14] = [
        (conv(2), &[&[4]], "wants an input [C,H,W], has bf16[N,4]"),
        (conv(1), &[image], "4 input channels do not fit weight [6, 2, 3, 3] with 1 groups"),
        (conv(0), &[image], "with 0 groups"),
        (conv(4), &[&[8, 8, 8]], "with 4 groups"),
        (conv(2), &[&[4, 0, 6]], "window 3 (stride 2, padding 1) does not fit a side of 0"),
        (linear(), &[&[7]], "input [7] does not fit weight [5, 8]"),
        (linear(), &[image], "does not fit weight"),
        (norm(), &[&[5, 2, 2]], "parameter `g` wants shape [5]"),
        (pool(2, 0, 0), &[image], "stride 0"),
        (pool(0, 1, 0), &[image], "window 0"),
        (pool(2, 1, 2), &[image], "padding 2 exceeds half the window 2"),
        (Op::GlobalAvgPool, &[&[4]], "wants an input [C,H,W]"),
        (Op::Add, &[image, &[4, 8, 2]], "adds bf16[N,4,8,6] and bf16[N,4,8,2]"),
        (CONCAT, &[image, &[4, 8, 1]], "joins bf16[N,4,8,6] and bf16[N,4,8,1]"),
    ];
    for (op, inputs, what) in cases {
        let said = inferred(&op, inputs).unwrap_err();
        assert!(said.contains(what), "{op:?}: {said}");
    }
    let mut bare = conv(2);
    bare.layer_mut().unwrap().bias = Some("g".into());
    assert_eq!(inferred(&bare, &[image]).unwrap_err(), "bias `g` wants shape [6]");
    bare.layer_mut().unwrap().weight = "fc".into();
    assert!(inferred(&bare, &[image]).unwrap_err().contains("`fc` wants 4 dimensions, has [5, 8]"));
    bare.layer_mut().unwrap().weight = "none".into();
    assert!(inferred(&bare, &[image]).unwrap_err().contains("`none` is not declared"));
    let mut biased = linear();
    biased.layer_mut().unwrap().bias = Some("b".into());
    assert_eq!(inferred(&biased, &[&[8]]).unwrap_err(), "bias `b` wants shape [5]");
}

/// The ONNX nodes of an operator that reads values of these shapes.
fn written(op: &Op, params: &[Param], inputs: &[&[usize]], opset: i64) -> Result<Vec<OnnxNode>, String> {
    let ty = |shape: &&[usize]| TensorType { shape: shape.to_vec(), dtype: DType::F32 };
    let types: Vec<TensorType> = inputs.iter().map(ty).collect();
    op.facts().onnx(&OnnxScope {
        shapes: Shapes::new(params),
        inputs: types.iter().collect(),
        opset,
        target: Some(Target::Onnxruntime),
        reads_constant: false,
    })
}

/// One operator a line: name, arity, how it describes itself, whether codes pass through it, whether it absorbs sums, its
/// sign from signed and from unsigned inputs, the quantized inputs for OpenVINO and for ONNX Runtime, its ONNX type.
fn line(op: &Op, inputs: usize, rank: usize) -> String {
    let (facts, params) = (op.facts(), params());
    let sign = |of| facts.sign(&vec![of; inputs]) == Sign::Unsigned;
    assert_eq!(op.layer().is_some(), op.clone().layer_mut().is_some(), "{op:?}");
    // The second input is behind more convolutions than all others.
    let absorbing = (0..inputs).map(|i| usize::from(i == 1)).collect();
    let [of_layer, of_integers] = [false, true].map(|of| vec![of; inputs]);
    let site = Site { absorbing, ranks: vec![rank; inputs], of_layer, of_integers };
    let quantized = |target| match facts.quantized_inputs(target, &site) {
        Some(slots) => format!("{slots:?}"),
        None => "no rule".into(),
    };
    let ty = TensorType { shape: vec![3; rank], dtype: DType::F32 };
    let scope = OnnxScope {
        shapes: Shapes::new(&params),
        inputs: vec![&ty; inputs],
        opset: 13,
        target: Some(Target::Onnxruntime),
        reads_constant: false,
    };
    let onnx = match facts.onnx(&scope) {
        Ok(nodes) => nodes.iter().map(|n| n.op_type).collect::<Vec<_>>().join(","),
        Err(_) => "-".into(),
    };
    assert_eq!(quantized(Target::Openvino), quantized(Target::Tensorrt));
    [
        facts.describe(&Shapes::new(&params)),
        facts.arity().to_string(),
        format!("hands on: {}", facts.hands_on()),
        format!("absorbs: {}", facts.absorbs_sum()),
        format!("unsigned: {}/{}", sign(Sign::Signed), sign(Sign::Unsigned)),
        format!("{} {}", quantized(Target::Openvino), quantized(Target::Onnxruntime)),
        onnx,
    ]
    .join(" | ")
}

#[test]
fn the_table() {
    let cast = Op::Cast(Cast { to: DType::F16 });
    let table: [(Op, usize, &str); 15] = [
        (Op::Input, 0, "Input | no | hands on: false | absorbs: false | unsigned: false/false | [] [] | -"),
        (
            conv(2),
            1,
            "Conv[6x2x3x3 s2x1 p1x0 g2 bias] | 1 | hands on: false | absorbs: true | unsigned: false/false | [0] [0] | Conv",
        ),
        (
            linear(),
            1,
            "Linear[5x8] | 1 | hands on: false | absorbs: false | unsigned: false/false | [0] [0] | Gemm",
        ),
        (
            norm(),
            1,
            "BatchNorm | 1 | hands on: false | absorbs: false | unsigned: false/false | [] [] | BatchNormalization",
        ),
        (Op::Relu, 1, "Relu | 1 | hands on: false | absorbs: false | unsigned: true/true | [] [] | Relu"),
        (
            Op::Sigmoid,
            1,
            "Sigmoid | 1 | hands on: false | absorbs: false | unsigned: true/true | [] [0] | Sigmoid",
        ),
        (
            pool(3, 2, 1),
            1,
            "MaxPool[3 s2 p1] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | MaxPool",
        ),
        (
            Op::GlobalAvgPool,
            1,
            "GlobalAvgPool | 1 | hands on: false | absorbs: false | unsigned: false/true | [] [0] | GlobalAveragePool",
        ),
        (
            Op::Flatten,
            1,
            "Flatten | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | Flatten",
        ),
        (Op::Add, 2, "Add | 2 | hands on: false | absorbs: false | unsigned: false/true | [0] [0, 1] | Add"),
        (
            CONCAT,
            3,
            "Concat | 2 or more | hands on: false | absorbs: false | unsigned: false/true | [] [0, 1, 2] | Concat",
        ),
        (
            quantizer(true),
            1,
            "Quantize[Signed, -127 to 127] | 1 | hands on: false | absorbs: false | unsigned: false/true | [] [] | -",
        ),
        (
            quantizer(false),
            1,
            "Observe[Signed, -127 to 127] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | -",
        ),
        (
            cast.clone(),
            1,
            "Cast[f16] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | -",
        ),
        (
            conv(1),
            1,
            "Conv[6x2x3x3 s2x1 p1x0 bias] | 1 | hands on: false | absorbs: true | unsigned: false/false | [0] [0] | Conv",
        ),
    ];
    for (op, inputs, want) in &table {
        // A fully connected layer reads a row, all others images.
        let rank = if matches!(op, Op::Linear(_)) { 1 } else { 3 };
        assert_eq!(&line(op, *inputs, rank), want);
        let described = want.split(['[', ' ']).next().unwrap();
        assert_eq!(op.kind(), if described == "Observe" { "Quantize" } else { described });
    }
    let site = |absorbing: [usize; 2], rank| Site {
        absorbing: absorbing.to_vec(),
        ranks: vec![rank; 2],
        of_layer: vec![false; 2],
        of_integers: vec![true; 2],
    };
    let (equal, behind) = (site([3, 3], 3), site([3, 1], 3));
    assert_eq!(Op::Add.facts().quantized_inputs(Target::Tensorrt, &equal), Some(vec![0, 1]));
    assert_eq!(Op::Add.facts().quantized_inputs(Target::Tensorrt, &behind), Some(vec![1]));
    let mixed = [Sign::Unsigned, Sign::Signed];
    assert_eq!(Op::Add.facts().sign(&mixed), Sign::Signed);
    let why = written(&cast, &[], &[], 13).unwrap_err();
    assert!(why.contains("amp-cast"), "{why}");
}

#[test]
fn a_layer_names_what_it_reads_and_what_became_of_it() {
    let mut op = conv(2);
    assert_eq!(op.params(), ["w", "b"]);
    let Op::BatchNorm(folded) = norm() else { panic!() };
    assert_eq!(norm().params(), ["g"; 4]);
    let layer = op.layer_mut().unwrap();
    layer.folded = Some(folded);
    layer.scheme = Some(Scheme::weight(8));
    assert_eq!((layer.marks().as_str(), layer.quantized()), (" bias +bn int8", true));
    layer.scheme = Some(Scheme::weight(4));
    assert!(layer.marks().ends_with(" int4") && !linear().layer().unwrap().quantized());
    assert_eq!(op.params(), ["w", "b", "g", "g", "g", "g"]);
    assert_eq!((linear().params(), Op::Relu.params().len()), (vec!["fc"], 0));
    assert!(Op::Relu.layer().is_none() && Op::Relu.layer_mut().is_none());
    assert_eq!(linear().layer(), linear().layer_mut().map(|l| &*l));
}

#[test]
fn a_convolution_in_a_file_has_all_its_attributes() {
    let params = params();
    let [node] = &written(&conv(2), &params, &[], 13).unwrap()[..] else { panic!() };
    let ints = |name: &str| match node.attributes.iter().find(|(n, _)| *n == name) {
        Some((_, OnnxAttribute::Ints(values))) => values.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!((ints("kernel_shape"), ints("strides")), (vec![3, 3], vec![2, 1]));
    assert_eq!((ints("pads"), ints("dilations")), (vec![1, 0, 1, 0], vec![1, 1]));
    assert!(node.attributes.contains(&("group", OnnxAttribute::Int(2))));
    assert_eq!(node.inputs, [OnnxInput::Value(0), OnnxInput::Weight, OnnxInput::Bias]);
    assert!(written(&conv(2), &[], &[], 13).unwrap_err().contains("`w` is not declared"));
}
