//! The Softmax at the end of a network.

use super::*;

/// A part of the scores alone is not the classes.
#[test]
fn a_softmax_behind_which_the_scores_get_another_shape_is_the_last() {
    let image = |axis, scores: &[usize], opset| {
        let nodes = vec![
            node("Conv", &["x", "k"], "c"),
            with(
                node("AveragePool", &["c"], "m"),
                vec![AttributeProto::ints("kernel_shape", vec![9 - scores[1] as i64, 9 - scores[2] as i64])],
            ),
            with(node("Softmax", &["m"], "p"), vec![AttributeProto::int("axis", axis)]),
            node("Squeeze", &["p"], "q"),
            node("Unsqueeze", &["q", "behind"], "r"),
            node("Flatten", &["r"], "s"),
            node("Reshape", &["s", "rows"], "y"),
        ];
        let longs = |name: &str, all: &[i64]| TensorProto::longs(name, &[all.len()], all);
        let numbers = vec![
            weight("k", &[scores[0], 3, 1, 1]),
            longs("behind", &[-1]),
            longs("rows", &[-1, scores.iter().product::<usize>() as i64]),
        ];
        let mut model = file(nodes, numbers);
        model.opset_import[0].version = Some(opset);
        of(&model)
    };
    for (axis, scores, opset) in [(1, [5, 1, 1], 17), (-3, [5, 1, 1], 17), (1, [5, 1, 2], 11)] {
        let made = image(axis, &scores, opset).unwrap();
        let kinds: Vec<&str> = made.graph.nodes.iter().map(|n| n.op.kind()).collect();
        assert!(!kinds.contains(&"Softmax"), "{axis} of {scores:?}: {kinds:?}");
        assert_eq!(made.graph.node(made.graph.output).ty.shape, [scores.iter().product::<usize>()]);
        assert!(made.notes.iter().any(|n| n.contains("the Softmax at its end")), "{:?}", made.notes);
    }
    for (axis, scores, opset) in [(1, [5, 1, 2], 17), (2, [5, 1, 2], 17), (3, [5, 1, 2], 11)] {
        let made = image(axis, &scores, opset);
        let kept = made.as_ref().map(|made| made.graph.nodes.iter().any(|n| n.op.kind() == "Softmax"));
        assert!(kept.unwrap_or(true), "{axis} of {scores:?}: {made:?}");
    }
}
