//! A program of Paddle's as a graph, under the program's own names. A pure function.

use super::attributes::{average_pool, convolution, flat, max_pool};
use super::value::{Given, Sketch};
use crate::graph::{BatchNorm, Clip, Dropout, Graph, Layer, Linear, Op, ParamKind, Scale};
use octrain_formats::paddle::{self, Program};
use std::collections::{BTreeMap, BTreeSet};

/// Kinds of operators that quantization puts into a program.
const QUANTIZING: [&str; 3] = ["fake_", "quantize_linear", "dequantize_linear"];

/// A program as a graph.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lowered {
    /// The graph; parameters and nodes have the names of Paddle's variables.
    pub graph: Graph,
    /// Parameters that Paddle keeps with their two dimensions the other way round.
    pub transposed: BTreeSet<String>,
    /// What was left out, for people.
    pub notes: Vec<String>,
}

/// Makes a graph of what a program computes of its image; `side` is that of images where the program leaves it open.
///
/// # Errors
/// Everything that cannot be taken.
pub(super) fn lower(program: &Program, name: &str, side: [usize; 2]) -> Result<Lowered, Vec<String>> {
    if let Some(quantized) = quantized(program) {
        return Err(vec![quantized]);
    }
    let producers = Producers::of(program);
    let (output, notes) = output(program, &producers).map_err(|e| vec![e])?;
    let (needed, leaves) = needed(program, &producers, output);
    let mut findings = Vec::new();
    let image = match leaves.into_iter().collect::<Vec<_>>()[..] {
        [image] => image,
        [] => return Err(vec!["its output depends on no image".into()]),
        ref several => {
            return Err(vec![format!(
                "its output depends on several values that are fed: {}",
                several.join(", ")
            )]);
        }
    };
    let channels_last = needed.iter().map(|&i| &program.ops[i]).find_map(layout) == Some("NHWC");
    let shape = image_shape(program, image, channels_last, side).map_err(|e| vec![e])?;
    let mut sketch = Sketch::new(program, image, shape, channels_last);
    for &i in &needed {
        let op = &program.ops[i];
        let known = layout(op).is_none_or(|told| (told == "NHWC") == channels_last);
        let made = match known {
            true => one(op, &mut sketch),
            false => Err("is in another order of memory than the operators before it".into()),
        };
        if let Err(why) = made {
            findings.push(format!("`{}` (which makes `{}`) {why}", op.kind, result(op).unwrap_or("nothing")));
            // What follows it is judged as if it had handed its input on.
            sketch.alias(op);
        }
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let (graph, transposed) = sketch.finish(name, output).map_err(|e| vec![e])?;
    Ok(Lowered { graph, transposed, notes })
}

/// The order of memory that an operator names.
fn layout(op: &paddle::Op) -> Option<&str> {
    let told = op.text("data_format").or_else(|| op.text("data_layout"))?;
    matches!(told, "NCHW" | "NHWC").then_some(told)
}

/// What is said of a program that was quantized.
fn quantized(program: &Program) -> Option<String> {
    let of = |op: &&paddle::Op| QUANTIZING.iter().any(|kind| op.kind.starts_with(kind));
    let found: Vec<&str> = program.ops.iter().filter(of).map(|op| op.kind.as_str()).collect();
    let kinds: BTreeSet<&str> = found.iter().copied().collect();
    (!found.is_empty()).then(|| {
        format!(
            "it is quantized already ({} operators: {}): import the floating-point network that it was made of, and quantize that here",
            found.len(),
            kinds.into_iter().collect::<Vec<_>>().join(", ")
        )
    })
}

/// The name of what an operator makes.
pub(super) fn result(op: &paddle::Op) -> Option<&str> {
    ["Output", "Y", "Out"].iter().find_map(|name| op.output(name, 0))
}

/// The operators that make each value, in the order of the program: several, where some work in place. What stays from run
/// to run and is updated by an optimizer is made by nobody.
struct Producers<'a>(BTreeMap<&'a str, Vec<usize>>);

impl<'a> Producers<'a> {
    fn of(program: &'a Program) -> Self {
        let mut out: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let makes = |op: &paddle::Op| !matches!(op.kind.as_str(), "feed" | "data");
        for (i, op) in program.ops.iter().enumerate().filter(|(_, op)| makes(op)) {
            for name in op.outputs.iter().flat_map(|(_, names)| names) {
                if !program.vars.get(name).is_some_and(|var| var.persistable) {
                    out.entry(name.as_str()).or_default().push(i);
                }
            }
        }
        Self(out)
    }

    /// The operator whose value an operator at `before` reads under this name.
    fn before(&self, name: &str, before: usize) -> Option<usize> {
        self.0.get(name)?.iter().rev().find(|i| **i < before).copied()
    }
}

/// The value that is the network's result: what is fetched, else what the loss is computed of. Softmax behind it is left
/// out.
fn output<'a>(program: &'a Program, producers: &Producers) -> Result<(&'a str, Vec<String>), String> {
    let of = |kinds: &[&str], argument: &str| {
        let all = program.ops.iter().filter(|op| kinds.contains(&op.kind.as_str()));
        all.filter_map(|op| op.input(argument, 0)).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let fetched = of(&["fetch"], "X");
    let losses = of(&["softmax_with_cross_entropy", "cross_entropy_with_softmax"], "Logits");
    let mut output = match (&fetched[..], &losses[..]) {
        ([one], _) | ([], [one]) => *one,
        ([], []) => {
            return Err("it neither fetches a value nor has a loss of softmax and cross-entropy, so that its result is not known".into());
        }
        (several, _) if !several.is_empty() => {
            return Err(format!(
                "it fetches several values ({}), where a classifier has one",
                several.join(", ")
            ));
        }
        (_, several) => return Err(format!("it has losses of several values: {}", several.join(", "))),
    };
    let (mut notes, mut at) = (Vec::new(), program.ops.len());
    while let Some(i) = producers.before(output, at) {
        let op = &program.ops[i];
        at = i;
        let identity = matches!(op.kind.as_str(), "assign" | "cast" | "share_data")
            || op.kind == "scale"
                && op.input("ScaleTensor", 1).is_none()
                && op.float("scale").unwrap_or(1.0) == 1.0
                && op.float("bias").unwrap_or(0.0) == 0.0;
        match (op.input("X", 0), op.kind.as_str()) {
            (Some(before), "softmax") => {
                notes.push("the softmax at its end is left out: outputs are logits here".into());
                output = before;
            }
            (Some(before), _) if identity => output = before,
            _ => break,
        }
    }
    Ok((output, notes))
}

/// The operators that a value depends on, in the order of the program, and the values that are fed to them.
fn needed<'a>(
    program: &'a Program,
    producers: &Producers,
    output: &'a str,
) -> (Vec<usize>, BTreeSet<&'a str>) {
    let (mut ops, mut leaves, mut open) =
        (BTreeSet::new(), BTreeSet::new(), vec![(output, program.ops.len())]);
    while let Some((value, before)) = open.pop() {
        match producers.before(value, before) {
            Some(i) => {
                if ops.insert(i) {
                    let read = program.ops[i].inputs.iter().flat_map(|(_, names)| names);
                    open.extend(read.map(|name| (name.as_str(), i)));
                }
            }
            // An argument that is left out has no name, or the number 0.
            None if value.is_empty() || value == "%0" => {}
            None if program.vars.get(value).is_some_and(|var| var.persistable) => {}
            None => drop(leaves.insert(value)),
        }
    }
    (ops.into_iter().collect(), leaves)
}

/// Channels, height and width of the image.
fn image_shape(
    program: &Program,
    image: &str,
    channels_last: bool,
    side: [usize; 2],
) -> Result<[usize; 3], String> {
    let shape = program.vars.get(image).and_then(|var| var.shape.as_deref()).unwrap_or_default();
    let [c, h, w] = match shape {
        [_, h, w, c] if channels_last => [*c, *h, *w],
        [_, c, h, w] if !channels_last => [*c, *h, *w],
        other => {
            return Err(format!(
                "what is fed, `{image}`, is of shape {other:?}, which no batch of images has"
            ));
        }
    };
    let known = |dim: i64, open: usize| usize::try_from(dim).unwrap_or(open);
    let channels = usize::try_from(c).map_err(|_| format!("the number of channels of `{image}` is open"))?;
    Ok([channels, known(h, side[0]), known(w, side[1])])
}

/// One operator.
fn one(op: &paddle::Op, sketch: &mut Sketch) -> Result<(), String> {
    let x = || op.input("X", 0).ok_or_else(|| "reads nothing".to_string());
    match op.kind.as_str() {
        "conv2d" | "depthwise_conv2d" => {
            fused(op)?;
            let (input, filter) = (op.input("Input", 0), op.input("Filter", 1));
            let (Some(input), Some(filter)) = (input, filter) else {
                return Err("reads no image or no filter".into());
            };
            let weight = sketch.param(filter, ParamKind::ConvWeight)?;
            let conv = convolution(op, weight, sketch.shape(input)?, &sketch.param_shape(filter)?)?;
            sketch.push(op, Op::Conv(conv), &[input])
        }
        "batch_norm" | "sync_batch_norm" => batch_norm(op, x()?, sketch),
        "relu" => sketch.push(op, Op::Relu, &[x()?]),
        "relu6" => sketch.push(op, Op::Clip(Clip::RELU6), &[x()?]),
        "sigmoid" => sketch.push(op, Op::Sigmoid, &[x()?]),
        "silu" => sketch.push(op, Op::Silu, &[x()?]),
        "swish" if op.float("beta").is_none_or(|beta| beta == 1.0) => sketch.push(op, Op::Silu, &[x()?]),
        "hard_swish" | "hardswish" if hard_swish(op) => sketch.push(op, Op::HardSwish, &[x()?]),
        "hard_sigmoid" | "hardsigmoid" if hard(op) => sketch.push(op, Op::HardSigmoid, &[x()?]),
        "gelu" if !op.bool("approximate") => sketch.push(op, Op::Gelu, &[x()?]),
        "pool2d" => pool(op, x()?, sketch),
        "elementwise_add" | "add" => add(op, sketch),
        "elementwise_mul" | "multiply" => {
            let (a, b) = two(op)?;
            sketch.push(op, Op::Mul, &[a, b])
        }
        "flatten_contiguous_range"
        | "flatten"
        | "flatten2"
        | "reshape2"
        | "reshape"
        | "squeeze2"
        | "squeeze" => {
            match sketch.given(x()?)? {
                // A bias that is laid out to be added to an image.
                Given::Param(_) => {
                    sketch.alias(op);
                    Ok(())
                }
                Given::Value(_) => {
                    flat(op, sketch.shape(x()?)?, sketch.channels_last(), sketch.ints_of(op))?;
                    sketch.push(op, Op::Flatten, &[x()?])
                }
            }
        }
        "matmul_v2" | "matmul" | "mul" => product(op, sketch),
        "dropout" => {
            if op.text("dropout_implementation").or(op.text("mode")) == Some("downgrade_in_infer") {
                return Err("multiplies in inference (`downgrade_in_infer`), which is not read".into());
            }
            let p = op.float("dropout_prob").or_else(|| sketch.number_of(op, 2)).unwrap_or(0.5) as f32;
            sketch.push(op, Op::Dropout(Dropout { p }), &[x()?])
        }
        "cast" | "assign" | "share_data" | "memcpy_d2h" | "memcpy_h2d" => {
            sketch.alias(op);
            Ok(())
        }
        "scale" if op.float("bias").unwrap_or(0.0) == 0.0 => match factor(op, sketch) {
            Some(1.0) => {
                sketch.alias(op);
                Ok(())
            }
            Some(factor) => sketch.push(op, Op::Scale(Scale { factor: factor as f32 }), &[x()?]),
            None => Err("multiplies by a number that is computed".into()),
        },
        // Numbers that others read as attributes.
        "full_int_array" | "full" | "fill_constant" => {
            sketch.keep_numbers(op);
            Ok(())
        }
        _ => Err("is not read".into()),
    }
}

/// What a scale multiplies by: an attribute, or a number that it reads; none where that is computed.
fn factor(op: &paddle::Op, sketch: &Sketch) -> Option<f64> {
    match op.input("ScaleTensor", 1) {
        Some(_) => sketch.number_of(op, 1),
        None => Some(op.float("scale").unwrap_or(1.0)),
    }
}

fn two(op: &paddle::Op) -> Result<(&str, &str), String> {
    op.input("X", 0).zip(op.input("Y", 1)).ok_or_else(|| "does not read two values".into())
}

/// Whether a hard sigmoid is x / 6 + 1 / 2, cut off. Paddle's slope is 0.2 where it is not said.
fn hard(op: &paddle::Op) -> bool {
    let near = |name, usual: f64, want: f64| (op.float(name).unwrap_or(usual) - want).abs() < 1e-6;
    near("slope", 0.2, 1.0 / 6.0) && near("offset", 0.5, 0.5)
}

/// Whether a hard swish is x (x + 3) / 6 between -3 and 3.
fn hard_swish(op: &paddle::Op) -> bool {
    let near = |name, want: f64| (op.float(name).unwrap_or(want) - want).abs() < 1e-6;
    near("threshold", 6.0) && near("scale", 6.0) && near("offset", 3.0)
}

/// An error where an operator computes another one with it, as Paddle's passes for inference write it.
fn fused(op: &paddle::Op) -> Result<(), String> {
    let activation = op.text("fuse_activation").is_some_and(|name| !name.is_empty());
    let flags = ["fuse_relu", "fuse_relu_before_depthwise_conv", "fuse_residual_connection"];
    match activation || flags.iter().any(|flag| op.bool(flag)) {
        true => {
            Err("has others fused into it; give the program as it was saved, without passes for inference"
                .into())
        }
        false => Ok(()),
    }
}

fn batch_norm(op: &paddle::Op, x: &str, sketch: &mut Sketch) -> Result<(), String> {
    let mut param = |name, place, kind| {
        let var = op.input(name, place).ok_or_else(|| format!("has no {name}"))?;
        sketch.param(var, kind)
    };
    let norm = BatchNorm {
        gamma: param("Scale", 3, ParamKind::Gamma)?,
        beta: param("Bias", 4, ParamKind::Beta)?,
        mean: param("Mean", 1, ParamKind::RunningMean)?,
        var: param("Variance", 2, ParamKind::RunningVar)?,
        eps: short(op.float("epsilon").ok_or("has no epsilon")?),
        // Paddle's is the share of what was before, PyTorch's that of what is new.
        momentum: short(1.0 - short(op.float("momentum").ok_or("has no momentum")?)),
    };
    sketch.push(op, Op::BatchNorm(norm), &[x])
}

/// The decimal number that was rounded to FP32 on its way into the file.
fn short(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}

fn pool(op: &paddle::Op, x: &str, sketch: &mut Sketch) -> Result<(), String> {
    let kernel = op.ints("ksize").map(<[i64]>::to_vec).or_else(|| sketch.ints_of(op));
    let kernel = kernel.ok_or("has no size of its window")?;
    let shape = sketch.shape(x)?;
    let mean = op.text("pooling_type") == Some("avg");
    let whole = op.bool("global_pooling") || op.bool("adaptive") && kernel == [1, 1];
    let made = match (mean, whole) {
        (true, true) => Op::GlobalAvgPool,
        (_, _) if whole || op.bool("adaptive") => {
            return Err("is adaptive, which is read of means over the whole image only".into());
        }
        (true, false) => Op::AvgPool(average_pool(op, &kernel, shape)?),
        (false, _) => Op::MaxPool(max_pool(op, &kernel, shape)?),
    };
    sketch.push(op, made, &[x])
}

/// A sum of values, or a bias.
fn add(op: &paddle::Op, sketch: &mut Sketch) -> Result<(), String> {
    let (a, b) = two(op)?;
    match (sketch.given(a)?, sketch.given(b)?) {
        (Given::Value(_), Given::Value(_)) => sketch.push(op, Op::Add, &[a, b]),
        (Given::Value(value), Given::Param(bias)) | (Given::Param(bias), Given::Value(value)) => {
            sketch.bias(op, value, &bias)
        }
        (Given::Param(_), Given::Param(_)) => Err("adds two parameters".into()),
    }
}

/// A product with a weight.
fn product(op: &paddle::Op, sketch: &mut Sketch) -> Result<(), String> {
    let (x, weight) = two(op)?;
    let (Given::Value(_), Given::Param(_)) = (sketch.given(x)?, sketch.given(weight)?) else {
        return Err("is no product of a value with a parameter".into());
    };
    let flag = |names: [&str; 3]| names.iter().any(|name| op.bool(name));
    if flag(["trans_x", "transpose_x", "transpose_X"]) || op.float("alpha").is_some_and(|alpha| alpha != 1.0)
    {
        return Err("transposes its value, or multiplies it by a number".into());
    }
    let turned = !flag(["trans_y", "transpose_y", "transpose_Y"]);
    let weight = sketch.matrix(weight, turned)?;
    sketch.push(op, Op::Linear(Linear { layer: Layer::new(weight, None) }), &[x])
}

#[cfg(test)]
mod tests {
    use super::*;
    use octrain_formats::paddle::Attribute;

    fn op(kind: &str, attributes: &[(&str, Attribute)]) -> paddle::Op {
        let attributes = attributes.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        paddle::Op { kind: kind.into(), inputs: vec![], outputs: vec![], attributes }
    }

    #[test]
    fn attributes_that_change_numbers_are_not_passed_over() {
        let float = |name, value| (name, Attribute::Float(value));
        assert!(hard(&op("hard_sigmoid", &[float("slope", 1.0 / 6.0), float("offset", 0.5)])));
        // Paddle's own slope.
        assert!(!hard(&op("hard_sigmoid", &[])));
        assert!(hard_swish(&op("hard_swish", &[float("threshold", 6.0), float("scale", 6.0)])));
        for other in [float("threshold", 1.0), float("scale", 2.0), float("offset", 0.5)] {
            assert!(!hard_swish(&op("hard_swish", &[other])));
        }
        fused(&op("conv2d", &[("fuse_activation", Attribute::Text(String::new()))])).unwrap();
        for other in
            [("fuse_activation", Attribute::Text("relu".into())), ("fuse_relu", Attribute::Bool(true))]
        {
            assert!(fused(&op("conv2d", &[other])).unwrap_err().contains("without passes for inference"));
        }
    }
}
