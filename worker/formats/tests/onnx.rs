//! Damaged ONNX files, and what becomes of them.

use octrain_formats::onnx::proto::tensor_proto::DataType;
use octrain_formats::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
};
use octrain_formats::onnx::{Attribute, File, plausible};
use prost::Message;
use std::collections::BTreeMap;

/// A file with a tensor of every form, attributes of every kind that is taken, and nodes in no order.
fn whole() -> Vec<u8> {
    let typed = |name: &str, element: DataType| TensorProto {
        dims: vec![2],
        data_type: Some(element.into()),
        name: Some(name.into()),
        ..TensorProto::default()
    };
    let elsewhere = TensorProto {
        data_location: Some(1),
        external_data: vec![
            StringStringEntryProto::new("location", "w.data"),
            StringStringEntryProto::new("offset", "4"),
            StringStringEntryProto::new("length", "8"),
        ],
        ..typed("elsewhere", DataType::Float)
    };
    let attributes = vec![
        AttributeProto::ints("pads", vec![1, 1, 1, 1]),
        AttributeProto::float("alpha", 0.5),
        AttributeProto::int("group", 1),
        AttributeProto {
            name: Some("value".into()),
            r#type: Some(4),
            t: Some(TensorProto::longs("", &[2], &[3, -1])),
            ..AttributeProto::default()
        },
        AttributeProto {
            name: Some("mode".into()),
            r#type: Some(3),
            s: Some(b"constant".to_vec()),
            ..AttributeProto::default()
        },
    ];
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![
            NodeProto::new("Relu", "relu", &["y"], "z", vec![]),
            NodeProto::new("Conv", "conv", &["x", "raw", ""], "y", attributes),
        ],
        initializer: vec![
            TensorProto::floats("raw", &[1, 2, 1, 1], &[1.0, 2.0]),
            TensorProto { float_data: vec![1.0, 2.0], ..typed("floats", DataType::Float) },
            TensorProto { double_data: vec![1.0, 2.0], ..typed("doubles", DataType::Double) },
            TensorProto { int32_data: vec![15360, 16384], ..typed("halves", DataType::Float16) },
            TensorProto { int64_data: vec![1, -2], ..typed("longs", DataType::Int64) },
            TensorProto { uint64_data: vec![1, 2], ..typed("unsigned", DataType::Uint64) },
            elsewhere,
        ],
        input: vec![ValueInfoProto::batch("x", &[2, 4, 4])],
        output: vec![ValueInfoProto::fixed("z", &[1, 1, 4, 4])],
        ..GraphProto::default()
    };
    let model = ModelProto {
        producer_name: Some("test".into()),
        metadata_props: vec![StringStringEntryProto::new("key", "value")],
        ..ModelProto::new(graph, 13)
    };
    model.encode_to_vec()
}

fn beside() -> BTreeMap<String, Result<Vec<u8>, String>> {
    BTreeMap::from([("w.data".to_string(), Ok([0.0f32, 1.0, 2.0].map(f32::to_le_bytes).concat()))])
}

#[test]
fn a_file_is_read_as_what_it_says() {
    let bytes = whole();
    assert!(plausible(&bytes) && !plausible(b"PK\x03\x04"));
    let file = File::decode(&bytes).unwrap();
    assert_eq!(file.beside().into_iter().collect::<Vec<_>>(), ["w.data"]);
    let model = file.read(&beside());
    assert_eq!(model.findings, []);
    assert_eq!(model.nodes.iter().map(|n| n.op.as_str()).collect::<Vec<_>>(), ["Conv", "Relu"]);
    for name in ["floats", "doubles", "halves", "elsewhere"] {
        assert_eq!(model.initializers[name].as_floats(), Some(&[1.0, 2.0][..]), "{name}");
    }
    assert_eq!(model.initializers["longs"].as_integers(), Some(&[1, -2][..]));
    let attributes = &model.nodes[0].attributes;
    assert_eq!(attributes["pads"], Attribute::Integers(vec![1; 4]));
    assert_eq!(attributes["mode"], Attribute::Text("constant".into()));
    assert_eq!((model.opset, model.producer.as_str()), (13, "test"));
    assert_eq!(model.metadata["key"], "value");
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_no_panic() {
    let bytes = whole();
    for end in 0..bytes.len() {
        if let Ok(file) = File::decode(&bytes[..end]) {
            file.read(&BTreeMap::new());
        }
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
fn whatever_bytes_are_changed_nothing_panics_and_memory_stays_bounded() {
    let rounds = std::env::var("OCTRAIN_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4000);
    let (whole, beside) = (whole(), beside());
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut read = 0;
    for round in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..1 + random(&mut seed) % 8 {
            let at = random(&mut seed) % bytes.len();
            match random(&mut seed) % 4 {
                0 => bytes[at] = random(&mut seed) as u8,
                1 => bytes[at] ^= 1 << (random(&mut seed) % 8),
                2 => drop(bytes.drain(at..(at + random(&mut seed) % 16).min(bytes.len()))),
                _ => bytes.insert(at, random(&mut seed) as u8),
            }
        }
        let Ok(file) = File::decode(&bytes) else { continue };
        read += 1;
        let model = file.read(&beside);
        let made: usize = model.initializers.values().map(|c| c.numbers.len()).sum();
        assert!(made <= bytes.len() + 12, "round {round}: {made} elements of {} bytes", bytes.len());
        assert!(model.nodes.len() <= 400_000, "round {round}");
    }
    assert!(rounds < 100 || read > rounds / 100, "only {read} of {rounds} are decoded");
}
