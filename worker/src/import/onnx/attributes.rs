//! Attributes of a node with the standard's defaults, and inputs that took their place in later operator sets.

use octrain_formats::onnx::{Attribute, Node};

/// A whole number; `default` where it is not given.
pub(super) fn integer(node: &Node, name: &str, default: i64) -> Result<i64, String> {
    match node.attributes.get(name) {
        None => Ok(default),
        Some(Attribute::Integer(value)) => Ok(*value),
        Some(_) => Err(format!("its attribute `{name}` is no whole number")),
    }
}

/// Several whole numbers; none where they are not given.
pub(super) fn integers(node: &Node, name: &str) -> Result<Option<Vec<i64>>, String> {
    match node.attributes.get(name) {
        None => Ok(None),
        Some(Attribute::Integers(values)) => Ok(Some(values.clone())),
        Some(_) => Err(format!("its attribute `{name}` is no list of whole numbers")),
    }
}

/// Sizes, strides and paddings are of images: what is larger is no network's, and sums of such numbers can be counted.
const LARGEST: i64 = 1 << 24;

/// Several sizes, `count` of them; `default` for each where they are not given.
pub(super) fn sizes<const N: usize>(node: &Node, name: &str, default: usize) -> Result<[usize; N], String> {
    let Some(values) = integers(node, name)? else { return Ok([default; N]) };
    let sizes: Option<Vec<usize>> =
        values.iter().map(|&v| usize::try_from(v).ok().filter(|_| v <= LARGEST)).collect();
    sizes
        .and_then(|sizes| sizes.try_into().ok())
        .ok_or_else(|| format!("its attribute `{name}` is {values:?}; {N} sizes are wanted, for images"))
}

/// A finite number; `default` where it is not given. Checkpoints cannot hold others.
pub(super) fn float(node: &Node, name: &str, default: f32) -> Result<f32, String> {
    match number(node, name)?.unwrap_or(default) {
        finite if finite.is_finite() => Ok(finite),
        other => Err(format!("its attribute `{name}` is {other}")),
    }
}

/// A floating-point number of any kind; none where it is not given.
pub(super) fn number(node: &Node, name: &str) -> Result<Option<f32>, String> {
    match node.attributes.get(name) {
        None => Ok(None),
        Some(Attribute::Float(value)) => Ok(Some(*value)),
        Some(_) => Err(format!("its attribute `{name}` is no number")),
    }
}

/// A word; `default` where it is not given.
pub(super) fn text<'a>(node: &'a Node, name: &str, default: &'a str) -> Result<&'a str, String> {
    match node.attributes.get(name) {
        None => Ok(default),
        Some(Attribute::Text(value)) => Ok(value),
        Some(_) => Err(format!("its attribute `{name}` is no word")),
    }
}

/// Where an axis of a value with so many dimensions lies, counted from the front.
pub(super) fn axis(given: i64, rank: usize) -> Result<usize, String> {
    let from_front = if given < 0 { given.checked_add(rank as i64) } else { Some(given) };
    let found = from_front.and_then(|axis| usize::try_from(axis).ok()).filter(|axis| *axis < rank);
    found.ok_or_else(|| format!("its axis {given} is none of a value with {rank} dimensions"))
}
