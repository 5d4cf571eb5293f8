//! Networks that other programs trained: a file or folder becomes a graph with its numbers, which can be saved as a
//! checkpoint like any other.
//!
//! [`Origin::of`] tells by content what wrote it; each origin has a file here that makes a [`Network`] of it. What does not
//! map is one error that names all of it.

mod error;
mod named;
pub mod onnx;
mod origin;
mod paddle;
mod renamed;
mod structure;

pub use error::{Findings, ImportError};
pub use origin::Origin;

use crate::checkpoint::Manifest;
use crate::checkpoint::{self, CheckpointError, LossScaleState, Pretrained, Snapshot, StartedFrom, State};
use crate::data::Preprocessing;
use crate::graph::Graph;
use crate::strategy::Strategy;
use std::path::Path;

/// What is wanted of an import besides what the file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Name of the network; none where the file decides.
    pub network: Option<String>,
    /// Channels, height and width of an image; none where the file decides.
    pub image_shape: Option<[usize; 3]>,
}

/// What was made of a file or folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// What wrote it.
    pub origin: Origin,
    /// The network with its numbers.
    pub network: Network,
    /// The file, as a training that begins with it says where its weights come from.
    pub from: StartedFrom,
}

/// A network with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// The graph before any pass.
    pub graph: Graph,
    /// Its parameters and statistics.
    pub model: State,
    /// What the optimizer kept of every weight, by the names that checkpoints have; empty where the file has none.
    pub optimizer: State,
    /// The loss scale that the optimizer stood at, where it kept one.
    pub loss_scale: Option<LossScaleState>,
    /// Names of the classes, in the order of the outputs, where the file has them.
    pub class_names: Option<Vec<String>>,
    /// How images are prepared, where the file says it.
    pub preprocessing: Option<Preprocessing>,
    /// What was left out or taken for something, for people.
    pub notes: Vec<String>,
}

impl Network {
    /// A graph and its weights, of which nothing more is known.
    fn new(graph: Graph, model: State) -> Self {
        Self {
            graph,
            model,
            optimizer: State::new(),
            loss_scale: None,
            class_names: None,
            preprocessing: None,
            notes: Vec::new(),
        }
    }

    /// Channels, height and width of an image.
    pub fn image_shape(&self) -> [usize; 3] {
        let shape = &self.graph.node(self.graph.input()).ty.shape;
        std::array::from_fn(|i| shape.get(i).copied().unwrap_or(0))
    }

    /// Number of outputs.
    pub fn classes(&self) -> usize {
        self.graph.node(self.graph.output).ty.shape.iter().product()
    }
}

/// Whether what is at `path` says its network itself, so that its weights are to be had by [`read`] alone. Checkpoints, and
/// files of weights by the names of a network of Octrain's, are none of these.
pub fn says_its_network(path: &Path) -> bool {
    matches!(Origin::of(path), Ok(Origin::Paddle))
}

/// Reads a network that another program wrote.
///
/// # Errors
/// When it cannot be read, is not the network that is wanted (everything that does not fit is named), or holds numbers that
/// are not finite.
pub fn read(path: &Path, wanted: &Wanted) -> Result<Imported, ImportError> {
    let origin = Origin::of(path)?;
    let (network, from) = match origin {
        Origin::Paddle => paddle::read(path, wanted)?,
        Origin::Safetensors | Origin::Pytorch => {
            let Pretrained { state, from, .. } = checkpoint::pretrained(path)?;
            (named::place(state, wanted, path)?, from)
        }
        Origin::Onnx => onnx::read(path, wanted)?,
    };
    let tensors = [&network.model, &network.optimizer].map(checkpoint::not_finite).concat();
    match tensors.is_empty() {
        true => Ok(Imported { origin, network, from }),
        false => Err(CheckpointError::NotFinite { path: path.into(), tensors }.into()),
    }
}

impl Imported {
    /// As a checkpoint at the first step of a training in FP32, to be saved by [`checkpoint::save`].
    pub fn snapshot(self, class_names: Vec<String>, preprocessing: Preprocessing) -> Snapshot {
        let Imported { network, from, .. } = self;
        let Network { graph, model, optimizer, loss_scale, .. } = network;
        let new = Manifest::new(&graph, class_names, preprocessing, Strategy::default());
        let loss_scale = loss_scale.unwrap_or(new.loss_scale);
        let manifest = Manifest { started_from: Some(from), loss_scale, ..new };
        Snapshot { manifest, graph, model, unaveraged: None, optimizer }
    }
}
