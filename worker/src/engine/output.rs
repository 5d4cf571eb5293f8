//! What the output of a classifier is: how many classes, logits or probabilities.

use super::model::shown;
use octrain_formats::onnx::proto::{GraphProto, NodeProto, ValueInfoProto};

/// Operators that hand on the values as they are.
const HANDS_ON: [&str; 7] =
    ["Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze"];

/// The node that makes a value.
pub(super) fn maker<'a>(graph: &'a GraphProto, value: &str) -> Option<&'a NodeProto> {
    graph.node.iter().find(|n| n.output.iter().any(|o| o == value))
}

/// Values of one image in an output `[N, classes]` or `[N, classes, 1, 1]`, of which `told` says what the file leaves
/// open.
pub(super) fn classes_of(output: &ValueInfoProto, told: Option<usize>) -> Result<usize, String> {
    let dims = output.dims().unwrap_or_default();
    let [_, classes, rest @ ..] = &dims[..] else {
        return Err(format!("its output is {}; the scores of classes come as [N,classes]", shown(&dims)));
    };
    match (classes, told, rest.iter().all(|d| *d == Some(1))) {
        (_, _, false) => {
            Err(format!("its output is {}; the scores of classes come as [N,classes]", shown(&dims)))
        }
        (Some(own), Some(told), true) if *own != told => {
            Err(format!("it has {own} outputs, and --classes names {told} classes"))
        }
        (Some(classes), _, true) => Ok(*classes),
        (None, Some(told), true) => Ok(told),
        (None, None, true) => Err(format!(
            "its output is {}, which does not say how many classes there are: name them with --classes FILE",
            shown(&dims)
        )),
    }
}

/// Whether the output comes from a Softmax.
pub(super) fn is_normalised(graph: &GraphProto, output: &ValueInfoProto) -> bool {
    let mut value = output.name();
    // Every node is passed once at most.
    for _ in 0..=graph.node.len() {
        let Some(node) = maker(graph, value) else { return false };
        match (node.op_type(), node.input.first()) {
            ("Softmax", _) => return true,
            (op, Some(from)) if HANDS_ON.contains(&op) => value = from,
            _ => return false,
        }
    }
    false
}

/// Probabilities of the classes, from one image's outputs: those themselves where they are `normalised`, else their
/// softmax.
pub fn probabilities(outputs: &[f32], normalised: bool) -> Vec<f64> {
    if normalised {
        return outputs.iter().map(|&x| f64::from(x)).collect();
    }
    let largest = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = outputs.iter().map(|&x| f64::from(x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

/// The place of the largest of an image's outputs: its predicted class; the first of equals.
pub fn predicted(outputs: &[f32]) -> usize {
    (1..outputs.len()).fold(0, |m, i| if outputs[i] > outputs[m] { i } else { m })
}

/// The places of the `count` largest of the values, largest first; the first of equals comes first.
pub fn best(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_best_come_first() {
        let p = probabilities(&[1000.0, 1001.0, 1000.0, -5.0], false);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12 && (p[1] - 0.5761).abs() < 1e-4, "{p:?}");
        assert_eq!(best(&p, 3), [1, 0, 2]);
        assert_eq!(best(&p, 9).len(), 4);
        assert_eq!([predicted(&[1.0, 3.0, 3.0]), predicted(&[-1.0, -2.0])], [1, 0]);
        assert_eq!(probabilities(&[0.25, 0.75], true), [0.25, 0.75]);
    }

    #[test]
    fn a_softmax_is_found_behind_what_hands_it_on() {
        let node = |op: &str, from: &str, to: &str| NodeProto::new(op, "", &[from], to, vec![]);
        let y = ValueInfoProto::batch("y", &[3]);
        let graph = |ops: [&str; 2]| GraphProto {
            node: vec![node(ops[0], "x", "a"), node(ops[1], "a", "y")],
            ..GraphProto::default()
        };
        assert!(is_normalised(&graph(["Softmax", "Identity"]), &y));
        assert!(!is_normalised(&graph(["Softmax", "Gemm"]), &y));
        assert!(!is_normalised(&graph(["Gemm", "Flatten"]), &y));
    }
}
