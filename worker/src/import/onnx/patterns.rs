//! What exporters write of one operator, found and written as that operator again, by the name that the newest operator sets
//! have for it. What nothing reads any more is dropped afterwards.

use super::attributes::{axis, float, integer, integers, number};
use super::net::{Index, Net, instead};
use octrain_formats::onnx::{Attribute, Constant, Node};

/// Finds at a node the last of what an operator is written as; that operator, in its place.
type Pattern = fn(&Net, &Index, &Node) -> Option<Node>;

/// All patterns, inner ones before those that hold them.
pub(super) fn rewritten(net: Net) -> Net {
    let all: [Pattern; 7] = [bounded, hard_sigmoid, hard_swish, silu, gelu, layer_norm, biased];
    all.iter().fold(net, |net, pattern| {
        let index = net.index();
        let nodes = net.nodes.iter().map(|node| pattern(&net, &index, node).unwrap_or_else(|| node.clone()));
        Net { nodes: nodes.collect(), ..net.clone() }.live()
    })
}

/// `Min` and `Max` with a number, one after the other or alone, are a Clip.
fn bounded(net: &Net, index: &Index, node: &Node) -> Option<Node> {
    let bound = |node: &Node| match &node.inputs[..] {
        [a, b] => net.number(b).map(|x| (a.clone(), x)).or_else(|| net.number(a).map(|x| (b.clone(), x))),
        _ => None,
    };
    let (x, outer) = bound(node)?;
    let (own, other) = match node.op.as_str() {
        "Min" => ("max", "Max"),
        "Max" => ("min", "Min"),
        _ => return None,
    };
    let inner = net.made_by(index, &x, other).and_then(bound);
    let mut clip = instead(node, "Clip", &[inner.as_ref().map_or(&x, |(x, _)| x)]);
    clip.attributes.insert(own.into(), Attribute::Float(outer));
    if let Some((_, inner)) = inner {
        let other = if own == "max" { "min" } else { "max" };
        clip.attributes.insert(other.into(), Attribute::Float(inner));
    }
    Some(clip)
}

/// The bounds of a Clip: attributes, since operator set 11 inputs.
pub(super) fn bounds(net: &Net, node: &Node) -> Result<(Option<f32>, Option<f32>), String> {
    let of = |name: &str, slot: usize| {
        let bound = match node.inputs.get(slot).filter(|i| !i.is_empty()) {
            Some(input) => {
                Some(net.number(input).ok_or_else(|| format!("its `{name}` is not one known number"))?)
            }
            None => number(node, name)?,
        };
        match bound {
            Some(bound) if bound.is_nan() => Err(format!("its `{name}` is {bound}")),
            bound => Ok(bound),
        }
    };
    // Infinities, and in older files the largest numbers, stand for none.
    let (min, max) = (of("min", 1)?, of("max", 2)?);
    Ok((min.filter(|x| *x > -3e38), max.filter(|x| *x < 3e38)))
}

/// `clip(x + 3, 0, 6)`.
fn shifted<'a>(net: &'a Net, index: &Index, value: &str) -> Option<&'a str> {
    let clip = net.made_by(index, value, "Clip")?;
    let bounds = bounds(net, clip).ok()?;
    let sum = net.made_by(index, clip.inputs.first()?, "Add").filter(|_| bounds == (Some(0.0), Some(6.0)))?;
    net.beside(sum, 3.0)
}

/// The value that this node takes a sixth of.
fn sixth<'a>(net: &Net, node: &'a Node) -> Option<&'a str> {
    match node.op.as_str() {
        "Div" => net.beside(node, 6.0),
        "Mul" => net.beside(node, 1.0 / 6.0),
        _ => None,
    }
}

/// `clip(x + 3, 0, 6) / 6`, and ONNX's own with a slope of 1/6.
fn hard_sigmoid(net: &Net, index: &Index, node: &Node) -> Option<Node> {
    let x = shifted(net, index, sixth(net, node)?)?;
    let mut made = instead(node, "HardSigmoid", &[x]);
    made.attributes.insert("alpha".into(), Attribute::Float(1.0 / 6.0));
    Some(made)
}

/// Whether a HardSigmoid is that of PyTorch: `min(max(x / 6 + 1 / 2, 0), 1)`.
pub(super) fn is_sixth(node: &Node) -> bool {
    let (alpha, beta) = (float(node, "alpha", 0.2), float(node, "beta", 0.5));
    matches!((alpha, beta), (Ok(alpha), Ok(beta)) if (alpha - 1.0 / 6.0).abs() < 1e-5 && beta == 0.5)
}

/// `x * hard_sigmoid(x)`, or `x * clip(x + 3, 0, 6) / 6`.
fn hard_swish(net: &Net, index: &Index, node: &Node) -> Option<Node> {
    let sixth_of = sixth(net, node).and_then(|value| net.made_by(index, value, "Mul"));
    let gate = |gate: &str, x: &str| match sixth_of {
        Some(_) => shifted(net, index, gate) == Some(x),
        None => net.made_by(index, gate, "HardSigmoid").is_some_and(|n| is_sixth(n) && n.inputs[0] == x),
    };
    let [a, b] = product(sixth_of.unwrap_or(node))?;
    let x = if gate(b, a) {
        a
    } else if gate(a, b) {
        b
    } else {
        return None;
    };
    Some(instead(node, "HardSwish", &[x]))
}

/// The inputs of a product of two values.
fn product(node: &Node) -> Option<[&String; 2]> {
    match (&node.op[..], &node.inputs[..]) {
        ("Mul", [a, b]) => Some([a, b]),
        _ => None,
    }
}

/// `x * sigmoid(x)`.
fn silu(net: &Net, index: &Index, node: &Node) -> Option<Node> {
    let [a, b] = product(node)?;
    let gate = |gate: &str, x: &str| net.made_by(index, gate, "Sigmoid").is_some_and(|n| n.inputs[0] == x);
    let x = if gate(b, a) {
        a
    } else if gate(a, b) {
        b
    } else {
        return None;
    };
    Some(instead(node, "Swish", &[x]))
}

/// `x * (1 + erf(x / sqrt(2))) / 2`, however it is bracketed.
fn gelu(net: &Net, index: &Index, node: &Node) -> Option<Node> {
    // The gate is 1 + erf(x / sqrt(2)).
    let gated = |value: &str| {
        let sum = net.made_by(index, value, "Add")?;
        let erf = net.made_by(index, net.beside(sum, 1.0)?, "Erf")?;
        let root = std::f32::consts::SQRT_2;
        let scaled = erf.inputs.first()?;
        match (net.made_by(index, scaled, "Div"), net.made_by(index, scaled, "Mul")) {
            (Some(quotient), _) => net.beside(quotient, root),
            (_, Some(product)) => net.beside(product, 1.0 / root),
            _ => None,
        }
    };
    let half = |value: &str| match (net.made_by(index, value, "Mul"), net.made_by(index, value, "Div")) {
        (Some(product), _) => net.beside(product, 0.5),
        (_, Some(quotient)) => net.beside(quotient, 2.0),
        _ => None,
    };
    let halved = |node: &'_ Node| match node.op.as_str() {
        "Mul" => net.beside(node, 0.5).map(str::to_string),
        "Div" => net.beside(node, 2.0).map(str::to_string),
        _ => None,
    };
    // (x * gate) / 2.
    if let Some([a, b]) = halved(node).and_then(|inner| product(net.made_by(index, &inner, "Mul")?)) {
        for (x, gate) in [(a, b), (b, a)] {
            if gated(gate) == Some(x.as_str()) {
                return Some(instead(node, "Gelu", &[x]));
            }
        }
    }
    // (x / 2) * gate, and x * (gate / 2).
    let [a, b] = product(node)?;
    for (one, other) in [(a, b), (b, a)] {
        let x = half(one).filter(|x| gated(other) == Some(*x));
        let x = x.or_else(|| half(other).and_then(gated).filter(|x| x == one));
        if let Some(x) = x {
            return Some(instead(node, "Gelu", &[x]));
        }
    }
    None
}

/// The axes of a ReduceMean: an attribute, since operator set 18 an input.
pub(super) fn axes(net: &Net, node: &Node) -> Result<Option<Vec<i64>>, String> {
    match (integers(node, "axes")?, node.inputs.get(1).filter(|i| !i.is_empty())) {
        (Some(axes), _) => Ok(Some(axes)),
        (None, Some(input)) => {
            let known = net.constants.get(input).and_then(|k| k.constant.as_integers());
            known.map(|axes| Some(axes.to_vec())).ok_or_else(|| "its axes are not known".into())
        }
        (None, None) => Ok(None),
    }
}

/// `(x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma + beta`.
fn layer_norm(net: &Net, index: &Index, node: &Node) -> Option<Node> {
    let shift = (node.op == "Add").then_some(node)?;
    for (scaled, beta) in [(0, 1), (1, 0)].map(|(a, b)| (&shift.inputs[a], &shift.inputs[b])) {
        let Some(scale) = net.made_by(index, scaled, "Mul").filter(|_| net.constants.contains_key(beta))
        else {
            continue;
        };
        for (normal, gamma) in [(0, 1), (1, 0)].map(|(a, b)| (&scale.inputs[a], &scale.inputs[b])) {
            let found = net.made_by(index, normal, "Div").and_then(|n| normalised(net, index, n));
            let Some((x, along, eps)) = found.filter(|_| net.constants.contains_key(gamma)) else { continue };
            let mut made = instead(node, "LayerNormalization", &[x, gamma, beta]);
            made.attributes.insert("axis".into(), Attribute::Integer(along));
            made.attributes.insert("epsilon".into(), Attribute::Float(eps));
            return Some(made);
        }
    }
    None
}

/// `(x - mean) / sqrt(variance + eps)`: x, the one axis of the mean, and eps.
fn normalised<'a>(net: &'a Net, index: &Index, quotient: &Node) -> Option<(&'a str, i64, f32)> {
    let mean = |value: &str| {
        let mean = net.made_by(index, value, "ReduceMean")?;
        match axes(net, mean).ok()??[..] {
            [along] => Some((mean.inputs.first()?.as_str(), along)),
            _ => None,
        }
    };
    let [centred, deviation] = &quotient.inputs[..] else { return None };
    let difference = net.made_by(index, centred, "Sub")?;
    let (x, along) = mean(difference.inputs.get(1)?).filter(|(x, _)| *x == difference.inputs[0])?;
    let root = net.made_by(index, deviation, "Sqrt")?;
    let sum = net.made_by(index, root.inputs.first()?, "Add")?;
    let (variance, eps) = match &sum.inputs[..] {
        [a, b] => net.number(b).map(|eps| (a, eps)).or_else(|| net.number(a).map(|eps| (b, eps)))?,
        _ => return None,
    };
    let (square, _) = mean(variance).filter(|(_, other)| *other == along)?;
    let squared = match (net.made_by(index, square, "Pow"), net.made_by(index, square, "Mul")) {
        (Some(power), _) => {
            let two = power.inputs.get(1).and_then(|i| net.constants.get(i)).map(|k| k.constant.as_ref());
            let two = two.is_some_and(|c| c.number() == Some(2.0) || c.as_integers() == Some(&[2]));
            two.then(|| &power.inputs[0])
        }
        (_, Some(product)) => (product.inputs[0] == product.inputs[1]).then(|| &product.inputs[0]),
        _ => None,
    };
    (squared? == centred).then_some((x, along, eps))
}

/// A sum with a constant behind a convolution or a matrix product without bias is its bias.
fn biased(net: &Net, index: &Index, node: &Node) -> Option<Node> {
    let [a, b] = (node.op == "Add").then_some(&node.inputs[..])? else { return None };
    for (value, bias) in [(a, b), (b, a)] {
        let Some(known) = net.constants.get(bias).filter(|_| net.only_reader(index, value, "Add").is_some())
        else {
            continue;
        };
        let shape = &known.constant.shape[..];
        if let Some(product) = net.made_by(index, value, "MatMul")
            && let Some(weight) = product.inputs.get(1).and_then(|w| net.constants.get(w))
            && matches!((&weight.constant.shape[..], shape), ([_, out], [.., last]) if out == last && known.constant.numbers.len() == *out)
        {
            let mut made = instead(node, "Gemm", &[&product.inputs[0], &product.inputs[1], bias]);
            made.name = product.name.clone();
            return Some(made);
        }
        if let Some(conv) = net.made_by(index, value, "Conv").filter(|c| c.inputs.len() == 2)
            && let Some(weight) = net.constants.get(&conv.inputs[1])
            && matches!((&weight.constant.shape[..], shape), ([out, ..], [.., channels, 1, 1]) if out == channels && known.constant.numbers.len() == *out)
        {
            let mut made = conv.clone();
            made.inputs.push(bias.clone());
            made.outputs = node.outputs.clone();
            return Some(made);
        }
    }
    None
}

/// What converters write behind the last Softmax: copies, and changes of type or shape.
const BEHIND: [&str; 6] = ["Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"];

/// What the Softmax, or its logarithm, at the end of a network makes. Its place is in the loss: outputs are logits.
pub(super) fn last_softmax(net: &Net) -> Option<String> {
    let index = net.index();
    let [output] = &net.outputs[..] else { return None };
    let mut value = output;
    while let Some(copy) = BEHIND.iter().find_map(|op| net.made_by(&index, value, op))
        && let Some(before) = copy.inputs.first()
    {
        value = before;
    }
    SOFTMAX.iter().find_map(|op| net.made_by(&index, value, op)).map(|_| value.clone())
}

/// A Softmax, and its logarithm.
pub(super) const SOFTMAX: [&str; 2] = ["Softmax", "LogSoftmax"];

/// The number that a Gemm multiplies one of its inputs by.
pub(super) fn factor(node: &Node, name: &str) -> Result<f32, String> {
    float(node, name, 1.0)
}

/// The axis of a node with one, from the front.
pub(super) fn along(node: &Node, default: i64, rank: usize) -> Result<usize, String> {
    axis(integer(node, "axis", default)?, rank)
}

/// A constant times a number.
pub(super) fn times(constant: &Constant, factor: f32) -> Option<Vec<f32>> {
    Some(constant.as_floats()?.iter().map(|x| x * factor).collect())
}
