//! How many messages a file holds, counted before it is decoded: an empty one takes two bytes and becomes hundreds.

use crate::FormatError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Messages in a file at most. The largest networks have some tens of thousands; this many take a third of a gigabyte.
const MOST: usize = 400_000;
/// How deep messages lie in each other at most: subgraphs, which are not taken, are the only way deeper than ten.
const DEEPEST: usize = 40;

/// `(message, field, message of the field)`, sorted.
const FIELDS: &[(&str, u32, &str)] = include!(concat!(env!("OUT_DIR"), "/onnx_messages.rs"));

/// Counts the messages of a model.
///
/// # Errors
/// When there are more than any network has, or the bytes are no messages.
pub(super) fn count(bytes: &[u8]) -> Result<usize, FormatError> {
    let mut seen = 0;
    walk(".onnx.ModelProto", bytes, 0, &mut seen)?;
    Ok(seen)
}

fn walk(message: &str, mut bytes: &[u8], depth: usize, seen: &mut usize) -> Result<(), FormatError> {
    if depth > DEEPEST {
        return Err(FormatError::damaged("its messages lie in each other without end"));
    }
    let first = FIELDS.partition_point(|(holder, ..)| *holder < message);
    let fields = &FIELDS[first..];
    let fields = &fields[..fields.partition_point(|(holder, ..)| *holder == message)];
    while !bytes.is_empty() {
        let (field, wire) = decode_key(&mut bytes).map_err(FormatError::damaged)?;
        let held = fields.iter().find(|(_, number, _)| *number == field).map(|(.., held)| held);
        match (wire, held) {
            (WireType::LengthDelimited, Some(held)) => {
                let length = decode_varint(&mut bytes).map_err(FormatError::damaged)?;
                let inside = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
                let (inside, rest) = inside.ok_or_else(|| FormatError::damaged("a message is cut short"))?;
                *seen += 1;
                if *seen > MOST {
                    return Err(FormatError::damaged(format!(
                        "it has more than {MOST} parts, which no network has"
                    )));
                }
                walk(held, inside, depth + 1, seen)?;
                bytes = rest;
            }
            _ => {
                skip_field(wire, field, &mut bytes, DecodeContext::default()).map_err(FormatError::damaged)?
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::proto::{GraphProto, ModelProto, NodeProto};
    use super::*;
    use prost::Message;

    #[test]
    fn messages_are_counted_before_they_are_made() {
        let node = NodeProto::new("Relu", "a", &["x"], "y", vec![]);
        let graph = GraphProto { node: vec![node; 3], ..GraphProto::default() };
        let model = ModelProto { graph: Some(graph), ..ModelProto::default() };
        assert_eq!(count(&model.encode_to_vec()), Ok(4));
        // A graph of a million empty nodes: two megabytes that would become two hundred.
        let nodes = b"\x0a\x00".repeat(1_000_000);
        let mut bytes = vec![0x3a];
        prost::encoding::encode_varint(nodes.len() as u64, &mut bytes);
        bytes.extend(nodes);
        assert!(count(&bytes).unwrap_err().to_string().contains("no network has"));
        for damaged in [&bytes[..9], b"\x3a\x05\x0a", b"\xff"] {
            assert!(count(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn messages_that_lie_in_each_other_without_end_are_damage() {
        let within = |tag: u8, inside: Vec<u8>| {
            let mut bytes = vec![tag];
            prost::encoding::encode_varint(inside.len() as u64, &mut bytes);
            [bytes, inside].concat()
        };
        // A graph has a node, that an attribute, that a graph.
        let deep =
            |times| (0..times).fold(Vec::new(), |graph, _| within(0x0a, within(0x2a, within(0x32, graph))));
        assert_eq!(count(&within(0x3a, deep(5))), Ok(16));
        assert!(count(&within(0x3a, deep(60))).unwrap_err().to_string().contains("without end"));
    }
}
