//! Checkpoints of Paddle's: the program says the network, which is found among Octrain's by its structure, as names differ
//! between releases and their numbers are not the order of the operators.

mod attributes;
mod files;
mod lower;
mod momentum;
#[cfg(test)]
mod tests;
mod value;

use super::error::counted;
use super::structure::{Unlike, matched};
use super::{Findings, ImportError, Network, Wanted, named};
use crate::checkpoint::{HostTensor, StartedFrom, State};
use crate::data::listed;
use crate::graph::{Graph, NodeId, Op};
use crate::models;
use files::{Content, Weights};
use lower::{Lowered, lower};
use octrain_formats::paddle::{Program, StateDict};
use octrain_formats::{Tensor, Tensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Height and width of images where nobody says.
const SIDE: usize = 224;

/// Whether a folder, or a file with its companions, is Paddle's.
pub(super) fn is_of_paddle(path: &Path) -> Result<bool, ImportError> {
    Ok(files::find(path)?.is_some())
}

/// Reads a checkpoint of Paddle's.
///
/// # Errors
/// Names everything that is missing, cannot be taken, or is another network's.
pub(super) fn read(path: &Path, wanted: &Wanted) -> Result<(Network, StartedFrom), ImportError> {
    let files = files::find(path)?.ok_or_else(|| ImportError::Unknown {
        path: path.into(),
        why:
            "it is none of the files that Paddle writes (.pdmodel, .pdiparams, .pdparams, .pdopt) by its name"
                .into(),
    })?;
    let Content { program, weights, optimizer, sha256, note } = files.read(path)?;
    let mut network = match program {
        Some(program) => of_program(&files.name, &program, weights, optimizer.as_ref(), wanted, path)?,
        None => of_modules(weights, optimizer.as_ref(), wanted, path)?,
    };
    network.notes.extend(note);
    Ok((network, StartedFrom::File { path: path.display().to_string(), sha256 }))
}

/// What is the matter with weights of a program.
fn unfit(path: &Path, network: &str, findings: Vec<String>) -> ImportError {
    ImportError::Unfit { path: path.into(), network: network.into(), findings: Findings(findings) }
}

/// A network by its program.
fn of_program(
    name: &str,
    program: &Program,
    weights: Weights,
    optimizer: Option<&StateDict>,
    wanted: &Wanted,
    path: &Path,
) -> Result<Network, ImportError> {
    let [_, height, width] = wanted.image_shape.unwrap_or([3, SIDE, SIDE]);
    let lowered = lower(program, name, [height, width])
        .map_err(|findings| ImportError::Incomplete { path: path.into(), findings: Findings(findings) })?;
    let ours = placed(&lowered.graph, wanted, path)?;
    let mut tensors = by_name(program, weights).map_err(|why| unfit(path, "its program", vec![why]))?;
    let Lowered { graph: theirs, transposed, mut notes } = lowered;
    // Of 16 bits, the optimizer has what they were rounded from.
    let masters = optimizer.map_or_else(Tensors::new, |state| momentum::masters(state, &theirs));
    if !masters.is_empty() {
        notes.push(format!("{} weights are those of 32 bits that the optimizer kept", masters.len()));
        tensors.extend(masters);
    }
    let unread = unread(program, &theirs, &tensors);
    if !unread.is_empty() {
        notes.push(format!("left out, as no operator reads them: {}", listed(&unread)));
        tensors.retain(|name, _| !unread.contains(name));
    }
    let findings = differences(&theirs, &transposed, &tensors);
    if !findings.is_empty() {
        return Err(unfit(path, "its program", findings));
    }
    let take = |tensors: &Tensors, from: &str| tensors.get(from).map(|t| host(t, transposed.contains(from)));
    let mut model = State::new();
    for (ours, from) in &ours.params {
        if let Some(tensor) = take(&tensors, from) {
            model.insert(ours.clone(), tensor);
        }
    }
    let (kept, told) = momentum::of(optimizer, &ours.graph, |name| {
        let from = ours.params.get(name)?;
        Some((from.clone(), transposed.contains(from)))
    })
    .map_err(|findings| unfit(path, &ours.graph.name, findings))?;
    notes.extend(told);
    let loss_scale = optimizer.and_then(momentum::loss_scale);
    let notes = [ours.notes, notes].concat();
    Ok(Network { optimizer: kept, loss_scale, notes, ..Network::new(ours.graph, model) })
}

/// A network of Octrain's, or the program's own, with the program's name for each of its parameters.
struct Placed {
    graph: Graph,
    params: BTreeMap<String, String>,
    notes: Vec<String>,
}

/// The network that a program's graph is: the one that is wanted, else the one of its structure, else none but itself.
fn placed(theirs: &Graph, wanted: &Wanted, path: &Path) -> Result<Placed, ImportError> {
    let shape = |graph: &Graph| graph.node(graph.input()).ty.shape.clone();
    let (at, classes) = (shape(theirs), theirs.node(theirs.output).ty.shape[0]);
    let at: [usize; 3] = std::array::from_fn(|i| at.get(i).copied().unwrap_or(0));
    if let Some(told) = wanted.image_shape.filter(|told| told[0] != at[0]) {
        return Err(ImportError::Channels { path: path.into(), found: at[0], wanted: told[0] });
    }
    let tried = |name: &str| {
        let built = models::build(name, at, classes)?;
        Ok::<_, ImportError>(matched(theirs, &built).map(|pairs| (built, pairs)))
    };
    let names: Vec<&str> = match &wanted.network {
        Some(name) => vec![name],
        None => models::NAMES.to_vec(),
    };
    let mut closest: Option<(String, Unlike)> = None;
    for name in names {
        match tried(name) {
            Ok(Ok((built, pairs))) => {
                // Its size is free: images of another side are no other network.
                let graph = match wanted.image_shape {
                    Some(told) => models::build(name, told, classes)?,
                    None => built,
                };
                return Ok(taken(graph, theirs, &pairs));
            }
            Ok(Err(unlike)) if closest.as_ref().is_none_or(|(_, least)| unlike.distance < least.distance) => {
                closest = Some((name.into(), unlike));
            }
            Ok(Err(_)) => {}
            Err(e) if wanted.network.is_some() => return Err(e),
            Err(_) => {}
        }
    }
    match (&wanted.network, closest) {
        (Some(_), Some((name, unlike))) => Err(unfit(path, &name, unlike.findings)),
        _ if wanted.image_shape.is_some_and(|told| told != at) => Err(ImportError::Incomplete {
            path: path.into(),
            findings: Findings(vec![format!(
                "it is none of Octrain's networks, which can be built for other images, and its own are of {at:?}"
            )]),
        }),
        _ => {
            let own = theirs.params.iter().map(|p| (p.name.clone(), p.name.clone())).collect();
            let note = format!(
                "it is none of Octrain's networks, and stays what it is, under the name {}",
                theirs.name
            );
            Ok(Placed { graph: theirs.clone(), params: own, notes: vec![note] })
        }
    }
}

/// Octrain's graph with what of the program's is a setting, and the names of its parameters there.
fn taken(mut graph: Graph, theirs: &Graph, pairs: &BTreeMap<NodeId, NodeId>) -> Placed {
    let mut params = BTreeMap::new();
    for (ours, from) in pairs {
        let (node, from) = (&mut graph.nodes[ours.0], theirs.node(*from));
        let names = node.op.params().into_iter().map(str::to_string);
        params.extend(names.zip(from.op.params().into_iter().map(str::to_string)));
        if let (Op::BatchNorm(norm), Op::BatchNorm(told)) = (&mut node.op, &from.op) {
            (norm.eps, norm.momentum) = (told.eps, told.momentum);
        }
    }
    Placed { graph, params, notes: Vec::new() }
}

/// Weights by the names of the program.
fn by_name(program: &Program, weights: Weights) -> Result<Tensors, String> {
    match weights {
        Weights::Streams(tensors) => {
            let names = program.parameters();
            if names.len() != tensors.len() {
                return Err(format!(
                    "the weights are {} tensors, and the program has {} parameters: they are not of one network",
                    tensors.len(),
                    names.len()
                ));
            }
            Ok(names.into_iter().map(str::to_string).zip(tensors).collect())
        }
        // What modules wrote has their names, and says those of the program beside them.
        Weights::Named(StateDict { tensors, structured, .. }) => Ok(tensors
            .into_iter()
            .map(|(name, tensor)| (structured.get(&name).cloned().unwrap_or(name), tensor))
            .collect()),
    }
}

/// Weights that a program declares and none of its operators reads, as those of a layer that was replaced before training.
fn unread(program: &Program, graph: &Graph, tensors: &Tensors) -> Vec<String> {
    let read: BTreeSet<&String> =
        program.ops.iter().flat_map(|op| op.inputs.iter().flat_map(|(_, names)| names)).collect();
    let unread = |name: &&String| {
        graph.param(name).is_none() && program.vars.contains_key(*name) && !read.contains(name)
    };
    tensors.keys().filter(unread).cloned().collect()
}

/// What of the weights is missing, left over, of another shape or type than the graph wants.
fn differences(graph: &Graph, transposed: &BTreeSet<String>, tensors: &Tensors) -> Vec<String> {
    let mut findings = Vec::new();
    let (mut missing, mut left_over) = (Vec::new(), Vec::new());
    for param in &graph.params {
        let Some(tensor) = tensors.get(&param.name) else {
            missing.push(param.name.clone());
            continue;
        };
        let mut shape = tensor.shape.clone();
        if transposed.contains(&param.name) {
            shape.reverse();
        }
        // A bias may be laid out to be added to an image.
        let same = shape == param.shape || param.shape.len() == 1 && tensor.data.len() == param.shape[0];
        if !same {
            findings.push(format!("{} is {shape:?}, not {:?}", param.name, param.shape));
        }
        if !tensor.element.is_float() {
            findings.push(format!(
                "{} has elements of type {:?}, where weights are floating point",
                param.name, tensor.element
            ));
        }
    }
    left_over.extend(tensors.keys().filter(|name| graph.param(name).is_none()).cloned());
    for (what, names) in [("missing", missing), ("left over", left_over)] {
        if !names.is_empty() {
            findings.push(counted(what, &names));
        }
    }
    findings
}

/// A tensor as checkpoints hold it, its two dimensions the other way round where the program has them so.
fn host(tensor: &Tensor, turned: bool) -> HostTensor {
    let Tensor { shape, data, .. } = tensor;
    match shape[..] {
        [rows, columns] if turned => {
            let at = |i: usize| data[i % rows * columns + i / rows];
            HostTensor { shape: vec![columns, rows], data: (0..data.len()).map(at).collect() }
        }
        _ => HostTensor { shape: shape.clone(), data: data.clone() },
    }
}

/// A name of Paddle's modules as that of torchvision's.
fn torch_name(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((module, "_mean")) => format!("{module}.running_mean"),
        Some((module, "_variance")) => format!("{module}.running_var"),
        _ => name.into(),
    }
}

/// A network by the names that its modules have, which are those of torchvision, but for BatchNorm's statistics. Weights of
/// fully connected layers lie the other way round.
fn of_modules(
    weights: Weights,
    optimizer: Option<&StateDict>,
    wanted: &Wanted,
    path: &Path,
) -> Result<Network, ImportError> {
    let incomplete = |finding: &str| ImportError::Incomplete {
        path: path.into(),
        findings: Findings(vec![finding.into()]),
    };
    let Weights::Named(StateDict { tensors, structured, left_out }) = weights else {
        return Err(incomplete("the program is missing, without which weights have no names"));
    };
    if structured.is_empty() && !tensors.keys().any(|name| name.ends_with(".weight")) {
        return Err(incomplete(
            "the weights have the names of a program (.pdmodel, or .json of Paddle 3), which is missing",
        ));
    }
    let ours: BTreeMap<String, String> =
        tensors.keys().map(|name| (torch_name(name), name.clone())).collect();
    let mut model = State::new();
    for (name, tensor) in &tensors {
        let turned = tensor.shape.len() == 2;
        model.insert(torch_name(name), host(tensor, turned));
    }
    let mut network = named::place(model, wanted, path)?;
    let (state, notes) = momentum::of(optimizer, &network.graph, |name| {
        let module = ours.get(name)?;
        let turned = tensors.get(module).is_some_and(|tensor| tensor.shape.len() == 2);
        Some((structured.get(module).unwrap_or(module).clone(), turned))
    })
    .map_err(|findings| unfit(path, &network.graph.name, findings))?;
    network.optimizer = state;
    network.notes.extend(notes);
    if !left_out.is_empty() {
        network.notes.push(format!("left out, being no weights: {}", listed(&left_out)));
    }
    Ok(network)
}
