//! A model of a file as a graph with its numbers: the steps in their order.

use super::graph::Made;
use super::net::Net;
use super::patterns::{last_softmax, rewritten};
use super::translate::{Translation, refusal};
use super::value::{Merged, Place, Value};
use crate::checkpoint::State;
use crate::data::listed;
use crate::graph::{Graph, NodeId, Op};
use octrain_formats::onnx::{Finding, Model, Node, Port, Size};
use std::collections::BTreeMap;

/// Versions of the standard's operators that are taken.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=21;
/// Types of an image's numbers: all of them become FP32.
const FLOATS: [&str; 4] = ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"];

/// What a file is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// A classifier of images `[C, H, W]`: its outputs are logits, one a class, and a Softmax at its end is left out.
    Classifier,
    /// Any function of one value, whose first dimension is that of the batch.
    Function,
}

/// What was made of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Translated {
    /// The network before any pass.
    pub graph: Graph,
    /// Its parameters and statistics.
    pub state: State,
    /// What was left out or taken for something, for people.
    pub notes: Vec<String>,
}

/// Makes a graph of a model, named `name`. `image_shape` says what the file leaves open.
///
/// # Errors
/// All that is not taken, each with the nodes that it is about.
pub fn network(
    model: &Model,
    name: &str,
    image_shape: Option<[usize; 3]>,
    task: Task,
) -> Result<Translated, Vec<String>> {
    let mut findings = model.findings.clone();
    if !OPSETS.contains(&model.opset) && model.opset != 0 {
        let (first, last) = (OPSETS.start(), OPSETS.end());
        findings.push(Finding::of_file(format!(
            "it uses version {} of the standard's operators; {first} to {last} are taken: onnx.version_converter.convert_version(model, {last})",
            model.opset
        )));
    }
    let input = input(model, image_shape, task, &mut findings);
    if model.outputs.len() != 1 {
        let names: Vec<&str> = model.outputs.iter().map(|o| o.name.as_str()).collect();
        findings.push(Finding::of_file(format!(
            "it has {} outputs ({}); one is taken, export the network with that alone",
            names.len(),
            names.join(", ")
        )));
    }
    let net = Net::new(model).fold_constants(&mut findings);
    // Without an output nothing is of use, and all of it is told about.
    let net = rewritten(if model.outputs.is_empty() { net } else { net.live() });
    let softmax = if task == Task::Classifier { last_softmax(&net) } else { None };
    let (Some(input), [_]) = (input, &model.outputs[..]) else {
        // What does not depend on shapes is told all the same.
        let is_last = |n: &&Node| softmax.is_some() && n.outputs.first() == softmax.as_ref();
        let nodes = net.nodes.iter().filter(|n| !is_last(n));
        findings.extend(nodes.filter_map(|n| refusal(&net, n).map(|why| Finding::at(n, why))));
        return Err(grouped(findings));
    };
    let mut made = Made::new(name, input.shape.clone());
    let place = match input.channels_last {
        false => Place::first(made.graph.input()),
        // The graph's images have their channels first; the file turns them, or is given them turned.
        true => {
            let perm = vec![1, 2, 0];
            let turned =
                made.push("input.turned", Op::Transpose(crate::graph::Transpose { perm }), &[NodeId(0)]);
            Place::first(turned.unwrap_or(NodeId(0)))
        }
    };
    let mut translation = Translation::new(&net, made, (&input.name, place), model.opset, input.fixed_batch)
        .without_softmax(softmax);
    translation.run(&mut findings);
    let output = output(&mut translation, task);
    match (output, findings.is_empty()) {
        (Ok(Some(output)), true) => {
            let softmax = translation.left_out;
            let (graph, state, copied) = translation.made.finish(output);
            if let Err(e) = graph.verify() {
                return Err(vec![e.to_string()]);
            }
            Ok(Translated { notes: notes(model, &graph, softmax, copied), graph, state })
        }
        (Err(why), true) => Err(vec![why]),
        (Ok(None), true) => Err(vec!["its output comes from nothing that is taken".into()]),
        (_, false) => Err(grouped(findings)),
    }
}

/// The input of a network, as the graph has it.
struct Input {
    name: String,
    shape: Vec<usize>,
    fixed_batch: Option<usize>,
    channels_last: bool,
}

fn input(model: &Model, told: Option<[usize; 3]>, task: Task, findings: &mut Vec<Finding>) -> Option<Input> {
    let [port] = &model.inputs[..] else {
        let names: Vec<&str> = model.inputs.iter().map(|i| i.name.as_str()).collect();
        findings.push(Finding::of_file(format!(
            "it has {} inputs besides its weights ({}); one batch of images is taken",
            names.len(),
            names.join(", ")
        )));
        return None;
    };
    match of_port(port, told, task) {
        Ok(input) => Some(input),
        Err(what) => {
            findings.push(Finding { place: format!("input `{}`", port.name), what });
            None
        }
    }
}

fn of_port(port: &Port, told: Option<[usize; 3]>, task: Task) -> Result<Input, String> {
    if !FLOATS.contains(&port.element.as_str()) {
        return Err(format!("its elements are {}; floating-point numbers are taken", port.element));
    }
    let sizes = port.sizes.as_deref().filter(|sizes| sizes.len() > 1);
    let (batch, sizes) = sizes.and_then(<[Size]>::split_first).ok_or("the file does not say its sizes")?;
    if task == Task::Classifier && sizes.len() != 3 {
        return Err(format!("it has {} dimensions; images come as [N,C,H,W]", 1 + sizes.len()));
    }
    let fixed = |size: &Size| if let Size::Fixed(n) = size { Some(*n) } else { None };
    let colours = |n: usize| matches!(n, 3 | 4);
    let channels_last = task == Task::Classifier
        && fixed(&sizes[2]).is_some_and(colours)
        && !fixed(&sizes[0]).is_some_and(colours);
    let order = if channels_last { vec![2, 0, 1] } else { (0..sizes.len()).collect() };
    let mut shape = Vec::new();
    for (i, at) in order.into_iter().enumerate() {
        let told = told.filter(|_| sizes.len() == 3).map(|told| told[i]);
        shape.push(match (&sizes[at], told) {
            (Size::Fixed(own), Some(told)) if *own != told => {
                return Err(format!("its dimension {} is {own}, and {told} is wanted", 1 + at));
            }
            (Size::Fixed(own), _) => *own,
            (Size::Open(_), Some(told)) => told,
            (Size::Open(name), None) => {
                let name = if name.is_empty() { String::new() } else { format!(" (`{name}`)") };
                return Err(format!(
                    "its dimension {}{name} is open; only that of the batch may be: say the shape of an image, or export the file with it",
                    1 + at
                ));
            }
        });
    }
    if task == Task::Classifier && !colours(shape[0]) {
        return Err(format!("it has {} channels; 3, or 4 with an empty fourth, are taken", shape[0]));
    }
    if task == Task::Classifier && shape[1] != shape[2] {
        let [height, width] = [shape[1], shape[2]];
        return Err(format!(
            "its images are {height} by {width} pixels; square ones are taken, export the network for these"
        ));
    }
    Ok(Input { name: port.name.clone(), shape, fixed_batch: fixed(batch), channels_last })
}

/// The node that makes the output; none where it was refused, which is found already.
fn output(translation: &mut Translation, task: Task) -> Result<Option<NodeId>, String> {
    let name = translation.net.outputs.first().cloned().unwrap_or_default();
    let place = match translation.read(&name) {
        Some(Value::Made(place)) => place,
        Some(Value::Refused) | None => return Ok(None),
        Some(_) => return Err(format!("its output `{name}` does not depend on the image")),
    };
    if place.batch != 0 || place.merged != Merged::Alone {
        return Err(format!("the batch is not the first dimension of its output `{name}`"));
    }
    let shape = translation.made.shape(place.id).to_vec();
    match (task, &shape[..]) {
        (Task::Function, _) | (Task::Classifier, [_]) => Ok(Some(place.id)),
        (Task::Classifier, [_, rest @ ..]) if rest.iter().all(|&d| d == 1) => {
            translation.made.push("logits", Op::Flatten, &[place.id]).map(Some)
        }
        _ => Err(format!(
            "its output `{name}` is {shape:?} of an image; the scores of classes come as [N,classes]"
        )),
    }
}

fn notes(model: &Model, graph: &Graph, softmax: Option<String>, mut copied: Vec<String>) -> Vec<String> {
    let mut notes = Vec::new();
    let writer =
        if model.producer.is_empty() { String::new() } else { format!(", written by {}", model.producer) };
    notes.push(format!("operators of version {}{writer}", model.opset));
    let norms = graph.nodes.iter().filter(|n| matches!(n.op, Op::BatchNorm(_))).count();
    let convolutions = graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv(_))).count();
    if norms == 0 && convolutions > 0 {
        notes.push(
            "it has no BatchNorm: if the network was trained with it, it is in the weights of its convolutions, and is trained with them"
                .into(),
        );
    }
    let apart = graph.iter().filter(|&(id, _)| graph.stands_apart(id));
    let apart: Vec<String> = apart.map(|(_, node)| node.name.clone()).collect();
    if !apart.is_empty() {
        notes.push(format!(
            "deployed files keep these BatchNorms, in floating point, as they are not right behind a convolution or Linear that nothing else reads: {}",
            listed(&apart)
        ));
    }
    if let Some(softmax) = softmax {
        notes.push(format!("the {softmax} at its end is left out: outputs here are logits"));
    }
    if graph.node(graph.output).op == Op::Sigmoid {
        notes.push(
            "the Sigmoid at its end stays, and training takes outputs for logits of one class among all: export the network without it to train it"
                .into(),
        );
    }
    if !copied.is_empty() {
        copied.sort();
        copied.dedup();
        notes.push(format!("weights that several nodes read have a copy for each: {}", listed(&copied)));
    }
    notes
}

/// The nodes that a finding is about, the first of them by name; all of them are logged at the level `debug`.
fn places_told(places: &[String]) -> String {
    let (all, shown) = (places.join(", "), listed(places));
    if all != shown {
        tracing::debug!("all {} of them: {all}", places.len());
    }
    shown
}

/// Findings for people: one line for each kind, with what it is about.
fn grouped(findings: Vec<Finding>) -> Vec<String> {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    for finding in findings {
        let at = *place.entry(finding.what.clone()).or_insert_with(|| {
            lines.push((finding.what.clone(), vec![]));
            lines.len() - 1
        });
        if !finding.place.is_empty() {
            lines[at].1.push(finding.place);
        }
    }
    let line = |(what, places): (String, Vec<String>)| match places.is_empty() {
        true => what,
        false => format!("{}: {what}", places_told(&places)),
    };
    lines.into_iter().map(line).collect()
}
