//! Numbers that no checkpoint can hold.

use super::*;

/// A checkpoint cannot hold a number that is not finite, and a Clip with one cuts nothing off, or everything.
#[test]
fn numbers_that_are_not_finite_are_refused_with_their_node() {
    let norms = || ["g", "b", "m", "v"].map(|name| weight(name, &[4])).to_vec();
    let norm = |name: &str, value| {
        let inputs = ["a", "g", "b", "m", "v"];
        with(node("BatchNormalization", &inputs, "n"), vec![AttributeProto::float(name, value)])
    };
    let clip = || node("Clip", &["a", "low", "high"], "n");
    let old = |value| with(node("Clip", &["a"], "n"), vec![AttributeProto::float("max", value)]);
    let bounds = |low, high| vec![number("low", low), number("high", high)];
    let layer =
        with(node("LayerNormalization", &["a", "l"], "n"), vec![AttributeProto::float("epsilon", f32::NAN)]);
    let dropout = with(node("Dropout", &["a"], "n"), vec![AttributeProto::float("ratio", f32::NAN)]);
    let of_opset = |opset, between: NodeProto, tensors: Vec<TensorProto>| {
        let nodes = vec![
            node("Conv", &["x", "k"], "a"),
            between,
            node("GlobalAveragePool", &["n"], "c"),
            node("Flatten", &["c"], "d"),
            node("Gemm", &["d", "w"], "y"),
        ];
        let own = vec![weight("k", &[4, 3, 1, 1]), weight("w", &[4, 5])];
        let mut model = file(nodes, [own, tensors].concat());
        model.opset_import[0].version = Some(opset);
        of(&model).map_err(|why| why.join("\n"))
    };
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    for (opset, between, tensors, part) in [
        (17, norm("epsilon", nan), norms(), "(BatchNormalization): its attribute `epsilon` is NaN"),
        (17, norm("epsilon", infinite), norms(), "(BatchNormalization): its attribute `epsilon` is inf"),
        (17, norm("momentum", nan), norms(), "(BatchNormalization): its attribute `momentum` is NaN"),
        (17, layer, vec![weight("l", &[8])], "(LayerNormalization): its attribute `epsilon` is NaN"),
        (11, dropout, vec![], "(Dropout): its attribute `ratio` is NaN"),
        (17, clip(), bounds(0.0, nan), "(Clip): its `max` is NaN"),
        (17, clip(), bounds(nan, 6.0), "(Clip): its `min` is NaN"),
        (10, old(nan), vec![], "(Clip): its `max` is NaN"),
        (17, clip(), bounds(infinite, infinite), "leave nothing between them"),
    ] {
        let told = of_opset(opset, between, tensors).expect_err(part);
        assert!(told.contains(part), "{part} in {told}");
    }
    // Infinite bounds are none.
    for (between, tensors) in
        [(clip(), bounds(-infinite, 6.0)), (clip(), bounds(-1.0, infinite)), (old(infinite), vec![])]
    {
        of_opset(if tensors.is_empty() { 10 } else { 17 }, between, tensors).unwrap();
    }
}
