//! What a file says of its network besides the graph: entries of ONNX's metadata, `octrain.<name>`, which `engine` reads back.

use super::scale_table;
use crate::checkpoint::{Origin, Position, State};
use crate::config::RunConfig;
use crate::data::Preprocessing;
use crate::graph::Graph;
use crate::strategy::Strategy;
use serde::Serialize;

/// What somebody needs to know to use a classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Names of the classes, in the order of the logits.
    pub class_names: Vec<String>,
    /// How an image becomes the network's input.
    pub preprocessing: Preprocessing,
}

/// A task that is not that of a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// Classes are not named, or too many are.
    #[error(
        "{named} classes are named, and the network has {outputs} outputs; name each once, in their order"
    )]
    Classes {
        /// Names.
        named: usize,
        /// Outputs of the network.
        outputs: usize,
    },
    /// Images would be of another size.
    #[error("the preprocessing crops squares of {crop} pixels, and the network takes images {shape:?}")]
    Crop {
        /// Side of the crop.
        crop: usize,
        /// `[channels, height, width]` of the network's input.
        shape: Vec<usize>,
    },
}

impl Task {
    /// Whether it can be that of `network`.
    pub fn check(&self, network: &Graph) -> Result<(), TaskError> {
        let [shape, outputs] = [network.input(), network.output].map(|id| &network.node(id).ty.shape);
        let (named, outputs) = (self.class_names.len(), outputs.iter().product());
        if named != outputs {
            return Err(TaskError::Classes { named, outputs });
        }
        let crop = self.preprocessing.crop_size;
        match shape.get(1..) {
            Some(sides) if sides.iter().all(|&side| side == crop) => Ok(()),
            _ => Err(TaskError::Crop { crop, shape: shape.clone() }),
        }
    }
}

/// What a file can say; what nobody knows it does not say.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// How the network was trained.
    pub strategy: &'a Strategy,
    /// Where its training stands.
    pub position: Position,
    /// What it is for.
    pub task: Option<&'a Task>,
    /// The checkpoint it comes from.
    pub checkpoint: Option<&'a Origin>,
    /// The settings of its run.
    pub settings: Option<&'a RunConfig>,
}

fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|e| unreachable!("it is plain data: {e}"))
}

/// The entries of a file with this graph, which has gone through the passes of an export, and these numbers.
pub fn metadata(graph: &Graph, state: &State, about: About) -> Vec<(String, String)> {
    let shape = &graph.node(graph.input()).ty.shape;
    let channels = shape.first().copied().unwrap_or_default();
    let preprocessing = |task: &Task| task.preprocessing.described(channels).to_string();
    let entries = [
        ("model", Some(graph.name.clone())),
        ("image_shape", Some(text(shape))),
        ("classes", about.task.map(|task| text(&task.class_names))),
        ("preprocessing", about.task.map(preprocessing)),
        ("strategy", Some(text(about.strategy))),
        ("position", Some(text(&about.position))),
        ("scales", Some(text(&scale_table(graph, state)))),
        ("checkpoint", about.checkpoint.map(text)),
        ("recipe", about.settings.map(text)),
    ];
    entries.into_iter().filter_map(|(key, value)| Some((format!("octrain.{key}"), value?))).collect()
}
