//! What Paddle's optimizers kept, as checkpoints hold it.

use super::super::error::counted;
use super::host;
use crate::checkpoint::{LossScaleState, State};
use crate::data::listed;
use crate::graph::Graph;
use octrain_formats::Tensors;
use octrain_formats::paddle::StateDict;

/// Behind a parameter's name: what SGD with momentum kept of it.
const VELOCITY: &str = "_velocity_0";
/// Behind a parameter's name: its value in 32 bits, where the parameter has 16.
const MASTER: &str = "_fp32_master_0";
/// The scale of the loss, and the finite steps since it last changed.
const LOSS_SCALE: [&str; 2] = ["loss_scaling_0", "num_good_steps_0"];
/// The buffer of `optim::Sgd`, before a parameter's name.
const BUFFER: &str = "momentum";

/// Values in 32 bits of parameters that have 16.
pub(super) fn masters(state: &StateDict, graph: &Graph) -> Tensors {
    let of = |name: &String| state.tensors.get(&format!("{name}{MASTER}")).map(|t| (name.clone(), t.clone()));
    graph.params.iter().filter_map(|p| of(&p.name)).collect()
}

/// The loss scale that a training in mixed precision stood at.
pub(super) fn loss_scale(state: &StateDict) -> Option<LossScaleState> {
    let [scale, good] = LOSS_SCALE.map(|name| state.tensors.get(name)?.data.first().copied());
    let scale = f64::from(scale.filter(|scale| scale.is_finite() && *scale > 0.0)?);
    Some(LossScaleState { scale, good_steps: good.unwrap_or(0.0) as u32 })
}

/// The momentum of every trainable parameter, and what else there was, for people. `theirs` says what Paddle calls a
/// parameter, and whether it lies the other way round.
///
/// # Errors
/// Names parameters without momentum where others have it, and those of other shapes.
pub(super) fn of(
    state: Option<&StateDict>,
    graph: &Graph,
    theirs: impl Fn(&str) -> Option<(String, bool)>,
) -> Result<(State, Vec<String>), Vec<String>> {
    let Some(StateDict { tensors, left_out, .. }) = state else { return Ok((State::new(), Vec::new())) };
    let (mut out, mut findings, mut missing) = (State::new(), Vec::new(), Vec::new());
    let mut taken = std::collections::BTreeSet::new();
    for param in graph.trainable() {
        let Some((name, turned)) = theirs(&param.name) else { continue };
        let keys = [format!("{name}{VELOCITY}"), format!("{name}{MASTER}{VELOCITY}")];
        let Some(key) = keys.into_iter().find(|key| tensors.contains_key(key)) else {
            missing.push(name);
            continue;
        };
        let tensor = host(&tensors[&key], turned);
        if tensor.shape != param.shape {
            findings.push(format!("{key} is {:?}, not {:?}", tensor.shape, param.shape));
        }
        out.insert(format!("{BUFFER}.{}", param.name), tensor);
        taken.insert(key);
    }
    if out.is_empty() {
        missing.clear();
    }
    if !missing.is_empty() {
        findings.push(counted("without momentum, where others have it", &missing));
    }
    if !findings.is_empty() {
        return Err(findings);
    }
    let known =
        |key: &String| taken.contains(key) || key.ends_with(MASTER) || LOSS_SCALE.contains(&key.as_str());
    let others = tensors.keys().filter(|key| !known(key));
    let others: Vec<String> = others.chain(left_out).cloned().collect();
    let mut notes = vec![match out.len() {
        0 => "the optimizer's file has no momentum of SGD; training starts without".into(),
        n => format!("momentum of {n} parameters is taken; it is used by who goes on from this checkpoint"),
    }];
    if !others.is_empty() {
        notes.push(format!(
            "left out of the optimizer's file, as the learning rate is said anew here: {}",
            listed(&others)
        ));
    }
    Ok((out, notes))
}
