use super::super::proto::{SparseTensorProto, TensorProto};
use super::*;

fn relu(name: &str, from: &str, to: &str) -> NodeProto {
    NodeProto::new("Relu", name, &[from], to, vec![])
}

fn file(graph: GraphProto) -> File {
    File::decode(&ModelProto::new(graph, 13).encode_to_vec()).unwrap()
}

fn graph(node: Vec<NodeProto>) -> GraphProto {
    GraphProto {
        node,
        input: vec![ValueInfoProto::batch("x", &[3, 8, 8])],
        output: vec![ValueInfoProto::batch("y", &[3, 8, 8])],
        ..GraphProto::default()
    }
}

fn told(graph: GraphProto) -> Vec<String> {
    file(graph).read(&BTreeMap::new()).findings.iter().map(ToString::to_string).collect()
}

#[test]
fn nodes_come_in_the_order_they_run() {
    let unordered = graph(vec![relu("c", "b", "y"), relu("b", "a", "b"), relu("a", "x", "a")]);
    let model = file(unordered).read(&BTreeMap::new());
    assert_eq!(model.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!((model.opset, model.findings), (13, vec![]));
    let sizes = ["batch"].map(|n| Size::Open(n.into())).into_iter().chain([3, 8, 8].map(Size::Fixed));
    assert_eq!(
        model.inputs,
        [Port { name: "x".into(), element: "FLOAT".into(), sizes: Some(sizes.collect()) }]
    );
}

#[test]
fn all_that_is_wrong_is_found_at_once() {
    let mut wrong = graph(vec![
        relu("first", "nowhere", "a"),
        relu("twice", "x", "a"),
        relu("left", "right", "left"),
        relu("right", "left", "right"),
        NodeProto { domain: Some("com.microsoft".into()), ..relu("own", "x", "b") },
        NodeProto {
            attribute: vec![AttributeProto {
                name: Some("then_branch".into()),
                r#type: Some(AttributeType::Graph.into()),
                ..AttributeProto::default()
            }],
            ..relu("branch", "x", "c")
        },
    ]);
    wrong.sparse_initializer = vec![SparseTensorProto {
        values: Some(TensorProto::floats("few", &[1], &[1.0])),
        ..SparseTensorProto::default()
    }];
    wrong.initializer = vec![
        TensorProto { dims: vec![9], ..TensorProto::floats("short", &[1], &[1.0]) },
        TensorProto::floats("same", &[1], &[1.0]),
        TensorProto::floats("same", &[1], &[1.0]),
    ];
    let told = told(wrong).join("\n");
    for part in [
        "node `first` (Relu): reads `nowhere`, which nothing makes",
        "node `twice` (Relu): makes `a`, which is there already",
        "(Relu): waits for its own value",
        "node `branch` (Relu): its attribute `then_branch`: it is a subgraph",
        "initializer `few`: it is sparse",
        "initializer `short`: its shape [9] wants 9 elements, and it holds 1",
        "initializer `same`: there are two of the name",
        "output `y`: nothing makes it",
    ] {
        assert!(told.contains(part), "{part} in\n{told}");
    }
    assert_eq!(told.lines().count(), 8, "{told}");
}

#[test]
fn tensors_beside_the_file_are_named() {
    use super::super::proto::StringStringEntryProto;
    use super::super::proto::tensor_proto::DataLocation;
    let mut with = graph(vec![relu("a", "x", "y")]);
    with.initializer = vec![TensorProto {
        data_location: Some(DataLocation::External.into()),
        external_data: vec![StringStringEntryProto::new("location", "../w.data")],
        raw_data: None,
        ..TensorProto::floats("w", &[1], &[0.0])
    }];
    let file = file(with);
    assert_eq!(file.beside(), BTreeSet::from(["../w.data".to_string()]));
    let unread = BTreeMap::from([("../w.data".to_string(), Err("which is elsewhere".to_string()))]);
    let model = file.read(&unread);
    assert!(
        model.findings[0].to_string().contains("`../w.data`, which is elsewhere"),
        "{:?}",
        model.findings
    );
}

#[test]
fn a_file_without_a_graph_is_none() {
    let empty = ModelProto { ir_version: Some(8), ..ModelProto::default() }.encode_to_vec();
    assert!(File::decode(&empty).unwrap_err().to_string().contains("no graph"));
    assert!(File::decode(b"GIF89a").is_err());
}
