//! What is the matter is told once: what follows from it is no finding of its own.

use super::*;
use octrain_formats::onnx::proto::attribute_proto::AttributeType;
use octrain_formats::onnx::proto::tensor_proto::DataLocation;
use octrain_formats::onnx::proto::{SparseTensorProto, StringStringEntryProto};

/// The tensor as one that lies in a file that is not there.
fn elsewhere(tensor: TensorProto) -> TensorProto {
    TensorProto {
        data_location: Some(DataLocation::External.into()),
        external_data: vec![StringStringEntryProto::new("location", "net.data")],
        raw_data: None,
        float_data: vec![],
        ..tensor
    }
}

/// A network in which every way to use a tensor is: a layer, one behind a transposition, a GELU in parts, numbers of a Clip, a
/// Constant.
fn network_of(one: TensorProto, literal: TensorProto, others: Vec<TensorProto>) -> ModelProto {
    let constant = AttributeProto {
        name: Some("value".into()),
        r#type: Some(AttributeType::Tensor.into()),
        t: Some(literal),
        ..AttributeProto::default()
    };
    let nodes = vec![
        node("Conv", &["x", "first"], "a"),
        node("Div", &["a", "root"], "e1"),
        node("Erf", &["e1"], "e2"),
        node("Add", &["e2", "one"], "e3"),
        node("Mul", &["a", "e3"], "m"),
        node("Mul", &["m", "half"], "b"),
        with(node("Constant", &[], "six"), vec![constant]),
        node("Clip", &["b", "zero", "six"], "c"),
        node("GlobalAveragePool", &["c"], "d"),
        node("Flatten", &["d"], "e"),
        node("Transpose", &["w"], "t"),
        node("MatMul", &["e", "t"], "y"),
    ];
    let own = vec![number("root", std::f32::consts::SQRT_2), number("half", 0.5), one];
    file(nodes, [own, others].concat())
}

#[test]
fn a_file_beside_it_that_is_missing_is_the_only_finding() {
    let others = || vec![weight("first", &[4, 3, 1, 1]), number("zero", 0.0), weight("w", &[5, 4])];
    let whole = || network_of(number("one", 1.0), number("", 6.0), others());
    let made = of(&whole()).unwrap();
    assert!(made.graph.nodes.iter().any(|n| n.op == Op::Gelu), "{:?}", made.graph);
    let away = others().into_iter().map(elsewhere).collect();
    let mut model = network_of(elsewhere(number("one", 1.0)), elsewhere(number("", 6.0)), away);
    let why = || {
        let beside = BTreeMap::from([("net.data".to_string(), Err("which is missing".to_string()))]);
        let file = File::decode(&model.encode_to_vec()).unwrap();
        network(&file.read(&beside), "Net", None, Task::Classifier).unwrap_err()
    };
    let lies = "it lies in the file `net.data`, which is missing";
    let initializers = ["one", "first", "zero", "w"].map(|name| format!("initializer `{name}`")).join(", ");
    let told =
        [format!("{initializers}: {lies}"), format!("node `six` (Constant): its attribute `value`: {lies}")];
    assert_eq!(why(), told);
    // Nor is the operator within a GELU one that is not taken where the sizes of images are not known either.
    model = whole();
    model.graph.as_mut().unwrap().input = vec![ValueInfoProto::batch("x", &[3, 0, 0])];
    let why = of(&model).unwrap_err();
    assert!(why.len() == 1 && why[0].contains("its dimension 2 is open"), "{why:?}");
}

#[test]
fn a_tensor_or_node_that_is_not_read_is_told_without_who_reads_it() {
    let others = || vec![weight("first", &[4, 3, 1, 1]), number("zero", 0.0)];
    let mut model = network_of(number("one", 1.0), number("", 6.0), others());
    let graph = model.graph.as_mut().unwrap();
    graph.sparse_initializer =
        vec![SparseTensorProto { values: Some(weight("w", &[5, 4])), ..Default::default() }];
    let branch = |name: &str| AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Graph.into()),
        ..AttributeProto::default()
    };
    graph.node[8] = with(node("If", &["c"], "d"), vec![branch("then_branch"), branch("else_branch")]);
    graph.node[1].domain = Some("com.microsoft".into());
    graph.node[1].op_type = Some("QLinearAdd".into());
    let told = of(&model).unwrap_err();
    let all = told.join("\n");
    for part in [
        "initializer `w`: it is sparse",
        "node `d` (If): its attribute `then_branch` and `else_branch`: it is a subgraph",
        "node `e1` (com.microsoft.QLinearAdd): is of a file that is quantized already",
    ] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
    assert_eq!(told.len(), 3, "{all}");
}
