//! The values of a checkpoint's training graph in evaluation mode, in FP32 arithmetic: what the integers of an engine should
//! give.

use crate::exec::{Evaluator, ExecError};
use crate::graph::{Node, Op};
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;

/// Logits of images `[b, C, H, W]`, and the values of these names `[b, ...]`, contiguous: what a quantizer of that name
/// makes, else what the node does.
pub fn values(
    network: &Evaluator,
    images: &Tensor,
    names: &BTreeSet<String>,
) -> Result<(Tensor, BTreeMap<String, Tensor>), ExecError> {
    let mut values = BTreeMap::new();
    let mut watch = |node: &Node, value: &Tensor| {
        let name = match &node.op {
            Op::Quantize(q) if q.active => &q.name,
            Op::Quantize(_) => return,
            _ => &node.name,
        };
        if names.contains(name) {
            values.insert(name.clone(), value.contiguous());
        }
    };
    let logits = network.watched(images, Some(&mut watch))?;
    Ok((logits, values))
}
