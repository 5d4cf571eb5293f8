//! What the networks of today are made of: operators on values of any rank.

use super::*;

fn layer_norm() -> Op {
    let [gamma, beta] = ["d"; 2].map(String::from);
    Op::LayerNorm(LayerNorm { gamma, beta, eps: 1e-6 })
}

fn slice(axis: usize, start: usize, len: usize) -> Op {
    Op::Slice(Slice { axis, start, len })
}

fn reshape(shape: &[usize]) -> Op {
    Op::Reshape(Reshape { shape: shape.to_vec() })
}

fn transpose(perm: &[usize]) -> Op {
    Op::Transpose(Transpose { perm: perm.to_vec() })
}

fn pad(before: &[usize], after: &[usize]) -> Op {
    Op::Pad(Pad { before: before.to_vec(), after: after.to_vec() })
}

fn constant(shape: &[usize], values: &[f32]) -> Op {
    Op::Constant(Constant { shape: shape.to_vec(), values: values.to_vec(), compute: DType::F32 })
}

fn matmul(transpose_b: bool) -> Op {
    Op::MatMul(MatMul { transpose_b })
}

fn mean(padding: [usize; 2]) -> Op {
    Op::AvgPool(AvgPool { kernel: [2, 3], stride: [2, 1], padding, count_include_pad: true })
}

fn parameter(name: &str) -> Op {
    Op::Parameter(Parameter::new(name))
}

fn class_token(token: &str) -> Op {
    Op::ClassToken(ClassToken { token: token.into() })
}

#[test]
fn the_table_of_what_networks_of_today_are_made_of() {
    let left_out = Op::Dropout(Dropout { p: 0.5 });
    // An operator, how many values it reads, of how many dimensions.
    let table: [(Op, usize, usize, &str); 25] = [
        (
            Op::Clip(Clip::RELU6),
            1,
            3,
            "Clip[0..6] | 1 | hands on: false | absorbs: false | unsigned: true/true | [] [] | Clip",
        ),
        (
            Op::HardSigmoid,
            1,
            3,
            "HardSigmoid | 1 | hands on: false | absorbs: false | unsigned: true/true | [] [0] | HardSigmoid",
        ),
        (
            Op::Silu,
            1,
            3,
            "Silu | 1 | hands on: false | absorbs: false | unsigned: false/false | [] [0] | Sigmoid,Mul",
        ),
        (
            Op::HardSwish,
            1,
            3,
            "HardSwish | 1 | hands on: false | absorbs: false | unsigned: false/false | [] [0] | HardSigmoid,Mul",
        ),
        (
            Op::Gelu,
            1,
            2,
            "Gelu | 1 | hands on: false | absorbs: false | unsigned: false/false | [] [] | Div,Erf,Add,Mul,Mul",
        ),
        (
            mean([1, 0]),
            1,
            3,
            "AvgPool[2x3 s2x1 p1x0] | 1 | hands on: false | absorbs: false | unsigned: false/true | [] [0] | AveragePool",
        ),
        (
            Op::Mul,
            2,
            3,
            "Mul | 2 | hands on: false | absorbs: false | unsigned: false/true | [] [0, 1] | Mul",
        ),
        (Op::Mul, 2, 2, "Mul | 2 | hands on: false | absorbs: false | unsigned: false/true | [] [] | Mul"),
        (Op::Add, 2, 2, "Add | 2 | hands on: false | absorbs: false | unsigned: false/true | [] [] | Add"),
        (
            Op::Concat(Concat { axis: 1 }),
            2,
            2,
            "Concat[1] | 2 or more | hands on: false | absorbs: false | unsigned: false/true | [] [] | Concat",
        ),
        (
            Op::Scale(Scale { factor: 0.25 }),
            1,
            2,
            "Scale[0.25] | 1 | hands on: false | absorbs: false | unsigned: false/true | [] [] | Mul",
        ),
        (
            Op::Scale(Scale { factor: -1.0 }),
            1,
            2,
            "Scale[-1] | 1 | hands on: false | absorbs: false | unsigned: false/false | [] [] | Mul",
        ),
        (
            reshape(&[2, 4]),
            1,
            2,
            "Reshape[2x4] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | Reshape",
        ),
        (
            transpose(&[1, 0]),
            1,
            2,
            "Transpose[1,0] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | Transpose",
        ),
        (
            slice(1, 2, 3),
            1,
            2,
            "Slice[1 2..5] | 1 | hands on: false | absorbs: false | unsigned: false/true | [] [] | Slice",
        ),
        (
            pad(&[0, 1], &[2, 0]),
            1,
            2,
            "Pad[0x1 2x0] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | Pad",
        ),
        (
            layer_norm(),
            1,
            2,
            "LayerNorm | 1 | hands on: false | absorbs: false | unsigned: false/false | [] [] | ReduceMean,Sub,Pow,ReduceMean,Add,Sqrt,Div,Mul,Add",
        ),
        (
            matmul(false),
            2,
            3,
            "MatMul | 2 | hands on: false | absorbs: false | unsigned: false/false | [0, 1] [0, 1] | MatMul",
        ),
        (
            matmul(true),
            2,
            3,
            "MatMul[transposed] | 2 | hands on: false | absorbs: false | unsigned: false/false | [0, 1] [0, 1] | Transpose,MatMul",
        ),
        (
            Op::Softmax,
            1,
            3,
            "Softmax | 1 | hands on: false | absorbs: false | unsigned: true/true | [] [] | Softmax",
        ),
        (
            left_out,
            1,
            1,
            "Dropout[0.5] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | ",
        ),
        (
            Op::StochasticDepth(StochasticDepth { p: 0.25 }),
            1,
            3,
            "StochasticDepth[0.25] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [] | ",
        ),
        (
            parameter("positions"),
            0,
            2,
            "Parameter[1x3x8] | no | hands on: false | absorbs: false | unsigned: false/false | [] [] | Identity",
        ),
        (
            constant(&[2], &[0.5, 1.0]),
            0,
            1,
            "Constant[2] | no | hands on: false | absorbs: false | unsigned: true/true | [] [] | Identity",
        ),
        (
            class_token("token"),
            1,
            2,
            "ClassToken | 1 | hands on: false | absorbs: false | unsigned: false/false | [] [] | Pad,Add",
        ),
    ];
    for (op, inputs, rank, want) in &table {
        assert_eq!(&line(op, *inputs, *rank), want);
        assert_eq!(op.kind(), want.split(['[', ' ']).next().unwrap());
        let json = serde_json::to_string(op).unwrap();
        assert_eq!(&serde_json::from_str::<Op>(&json).unwrap(), op, "{json}");
    }
    // An image becomes tokens.
    let image =
        "Reshape[4x9] | 1 | hands on: true | absorbs: false | unsigned: false/true | [] [0] | Reshape";
    assert_eq!(line(&reshape(&[4, 9]), 1, 3), image);
    let only: Vec<&str> =
        table.iter().filter(|(op, ..)| op.facts().only_in_training()).map(|(op, ..)| op.kind()).collect();
    assert_eq!(only, ["Dropout", "StochasticDepth"]);
    let float: Vec<&str> =
        table.iter().filter(|(op, ..)| op.facts().stays_float()).map(|(op, ..)| op.kind()).collect();
    assert_eq!(float, ["Gelu", "LayerNorm", "Softmax"]);
}

#[test]
fn shapes_of_any_rank_follow_from_each_operators_rule() {
    let (image, tokens, heads): (&[usize], &[usize], &[usize]) = (&[4, 8, 6], &[3, 8], &[2, 3, 4]);
    let narrow = |op: &Op, inputs: &[&[usize]]| {
        let (shape, dtype) = inferred(op, inputs).unwrap();
        assert_eq!(dtype, DType::Bf16, "{op:?}");
        shape
    };
    assert_eq!(inferred(&linear(), &[tokens]).unwrap().0, [3, 5]);
    assert_eq!(narrow(&mean([1, 0]), &[image]), [4, 5, 4]);
    assert_eq!(narrow(&Op::Mul, &[image, &[4, 1, 1]]), image);
    assert_eq!(narrow(&Op::Add, &[&[1, 8], tokens]), tokens);
    assert_eq!(narrow(&Op::Concat(Concat { axis: 1 }), &[tokens, &[3, 2]]), [3, 10]);
    assert_eq!(narrow(&reshape(&[4, 48]), &[image]), [4, 48]);
    assert_eq!(narrow(&transpose(&[2, 0, 1]), &[image]), [6, 4, 8]);
    assert_eq!(narrow(&slice(1, 5, 3), &[image]), [4, 3, 6]);
    assert_eq!(narrow(&pad(&[0, 1], &[2, 0]), &[tokens]), [5, 9]);
    assert_eq!(narrow(&matmul(true), &[heads, heads]), [2, 3, 3]);
    assert_eq!(narrow(&matmul(false), &[heads, &[2, 4, 7]]), [2, 3, 7]);
    assert_eq!(narrow(&class_token("token"), &[tokens]), [4, 8]);
    assert_eq!(inferred(&parameter("positions"), &[]), Ok((vec![3, 8], DType::F32)));
    assert_eq!(inferred(&constant(&[2, 1], &[0.5, 1.0]), &[]), Ok((vec![2, 1], DType::F32)));
    let drop = Op::Dropout(Dropout { p: 0.0 });
    for op in [layer_norm(), Op::Gelu, Op::Softmax, Op::Silu, Op::HardSwish, Op::Clip(Clip::RELU6), drop] {
        assert_eq!(narrow(&op, &[tokens]), tokens, "{op:?}");
    }
    let mut dilated = conv(2);
    if let Op::Conv(conv) = &mut dilated {
        (conv.dilation, conv.padding) = ([2, 1], Padding { top: 2, left: 0, bottom: 1, right: 1 });
    }
    // (8 + 3 - 5) / 2 + 1 = 4 and 6 + 1 - 3 + 1 = 5.
    assert_eq!(inferred(&dilated, &[image]).unwrap().0, [6, 4, 5]);
    assert_eq!(dilated.facts().describe(&Shapes::new(&params())), "Conv[6x2x3x3 s2x1 p2,0,1,1 d2x1 g2 bias]");
}

#[test]
fn what_does_not_fit_is_said_of_any_rank() {
    let (image, tokens): (&[usize], &[usize]) = (&[4, 8, 6], &[3, 8]);
    let clip = |min, max| Op::Clip(Clip { min, max });
    let cases: [(Op, &[&[usize]], &str); 20] = [
        (linear(), &[&[3, 7]], "input [3, 7] does not fit weight [5, 8]"),
        (clip(6.0, 0.0), &[image], "leave nothing between them"),
        (clip(0.0, f32::INFINITY), &[image], "leave nothing between them"),
        (mean([2, 0]), &[image], "padding 2 exceeds half the window 2"),
        (Op::Mul, &[image, &[4, 2, 1]], "multiplies bf16[N,4,8,6] and bf16[N,4,2,1]"),
        (Op::Add, &[tokens, &[8]], "adds bf16[N,3,8] and bf16[N,8]"),
        (Op::Scale(Scale { factor: f32::NAN }), &[tokens], "multiplies by NaN"),
        (Op::Concat(Concat { axis: 2 }), &[tokens, tokens], "joins along dimension 2 of"),
        (reshape(&[5, 5]), &[tokens], "has another number of values"),
        (reshape(&[usize::MAX, 3]), &[tokens], "more values than can be counted"),
        (transpose(&[0, 0]), &[tokens], "orders dimensions [0, 0]"),
        (slice(1, 6, 3), &[tokens], "takes 3 from 6 on of dimension 1"),
        (slice(0, 1, 0), &[tokens], "takes 0 from 1 on"),
        (pad(&[1], &[1, 0]), &[tokens], "pads 1 and 2 dimensions"),
        (layer_norm(), &[&[3, 7]], "parameter `d` wants shape [7]"),
        (matmul(false), &[tokens, tokens], "multiplies bf16[N,3,8] and bf16[N,3,8]"),
        (Op::Dropout(Dropout { p: 1.0 }), &[tokens], "probability 1 is not from 0 to below 1"),
        (parameter("g"), &[], "wants shape [1, ...], has [4]"),
        (class_token("positions"), &[tokens], "token `positions` of shape [1, 3, 8] does not fit"),
        (constant(&[3], &[1.0]), &[], "has 1 numbers for shape [3]"),
    ];
    for (op, inputs, what) in cases {
        let said = inferred(&op, inputs).unwrap_err();
        assert!(said.contains(what), "{op:?}: {said}");
    }
    assert_eq!(inferred(&constant(&[1], &[f32::NAN]), &[]).unwrap_err(), "holds NaN");
    let mut gap = conv(2);
    if let Op::Conv(conv) = &mut gap {
        conv.dilation = [0, 1];
    }
    assert!(inferred(&gap, &[image]).unwrap_err().contains("kernel 3 with dilation 0"));
}

#[test]
fn files_have_an_operators_own_node_where_their_operator_set_has_it() {
    let params = params();
    let kinds = |op: &Op, inputs: &[&[usize]], opset| -> Vec<&str> {
        written(op, &params, inputs, opset).unwrap().iter().map(|n| n.op_type).collect()
    };
    assert_eq!(kinds(&Op::HardSwish, &[&[4]], 14), ["HardSwish"]);
    assert_eq!(kinds(&layer_norm(), &[&[3, 8]], 17), ["LayerNormalization"]);
    assert_eq!(kinds(&layer_norm(), &[&[3, 8]], 16).len(), 9);
    assert_eq!(kinds(&linear(), &[&[8]], 13), ["Gemm"]);
    assert_eq!(kinds(&linear(), &[&[3, 8]], 13), ["MatMul", "Add"]);
    let tokens = TensorType { shape: vec![3, 5], dtype: DType::F32 };
    assert!(!linear().facts().takes_integer_bias(&tokens) && conv(2).facts().takes_integer_bias(&tokens));
    let [pads, rows] = &written(&class_token("token"), &params, &[&[3, 8]], 13).unwrap()[..] else {
        panic!()
    };
    assert_eq!(pads.inputs[1], OnnxInput::Ints(vec![0, 1, 0, 0, 0, 0]));
    assert_eq!(rows.inputs, [OnnxInput::Made(0), OnnxInput::FirstRow("token".into(), 4)]);
    let [shape] = &written(&reshape(&[2, 4]), &params, &[&[8]], 13).unwrap()[..] else { panic!() };
    assert_eq!(shape.inputs[1], OnnxInput::Ints(vec![0, 2, 4]));
}
