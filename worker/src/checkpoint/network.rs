//! The network of a checkpoint: `graph.json`, the graph as it was built, before any pass, in the core's own form (operators
//! by kind and attributes, those of one's own included).

use super::store::{GRAPH, read_file};
use super::{CheckpointError, Manifest, State, match_weights};
use crate::graph::Graph;
use crate::models;
use serde_json::error::Category;
use std::path::Path;

/// The text of a graph.
pub(super) fn encode(graph: &Graph, path: &Path) -> Result<Vec<u8>, CheckpointError> {
    serde_json::to_vec(graph).map_err(|e| CheckpointError::Graph { path: path.into(), why: e.to_string() })
}

/// Parses and checks a graph.
pub(super) fn decode(bytes: &[u8], path: &Path, writer: &str) -> Result<Graph, CheckpointError> {
    let unusable = |why: String| CheckpointError::Graph { path: path.into(), why };
    let graph: Graph = serde_json::from_slice(bytes).map_err(|e| match e.classify() {
        Category::Data if e.to_string().contains("unknown variant") => {
            unusable(format!("it has an operator that this version does not know: {e}; use octrain {writer}, which wrote it, or a newer one"))
        }
        Category::Data => unusable(e.to_string()),
        Category::Io | Category::Syntax | Category::Eof => CheckpointError::damaged(path, e),
    })?;
    graph.verify().map_err(|e| unusable(e.to_string()))?;
    Ok(graph)
}

/// The network of a checkpoint folder, checked: that it can be typed, and that it is one for the images and classes of the
/// manifest. What the first release wrote has no graph; its networks are those of [`models`], and are built by name.
pub fn load_graph(folder: &Path, manifest: &Manifest) -> Result<Graph, CheckpointError> {
    let path = folder.join(GRAPH);
    let unusable = |why: String| CheckpointError::Graph { path: path.clone(), why };
    if !manifest.lists(GRAPH) {
        let built = models::build(&manifest.model, manifest.image_shape, manifest.class_names.len());
        return built.map_err(|e| unusable(format!("there is none, and it cannot be built by name: {e}")));
    }
    let graph = decode(&read_file(folder, manifest, GRAPH)?, &path, &manifest.octrain_version)?;
    match misfit(&graph, manifest) {
        Some(why) => Err(unusable(why)),
        None => Ok(graph),
    }
}

/// What of a graph is not as the manifest says; none where nothing is.
pub(super) fn misfit(graph: &Graph, manifest: &Manifest) -> Option<String> {
    let (input, output) = (&graph.node(graph.input()).ty.shape, &graph.node(graph.output).ty.shape);
    if graph.name != manifest.model {
        return Some(format!("it is that of {}, and the manifest names {}", graph.name, manifest.model));
    }
    if *input != manifest.image_shape {
        return Some(format!("it takes images {input:?}, and the manifest says {:?}", manifest.image_shape));
    }
    let classes = manifest.class_names.len();
    (*output != [classes])
        .then(|| format!("it makes {output:?} of an image, and the manifest names {classes} classes"))
}

/// Whether the weights of a checkpoint are those its graph wants: no more, no less, in the same shapes.
pub(super) fn fits(folder: &Path, graph: &Graph, weights: &State) -> Result<(), CheckpointError> {
    let mismatch = match_weights(graph, weights);
    match mismatch.is_empty() {
        true => Ok(()),
        false => {
            let (network, mismatch) = (graph.name.clone(), Box::new(mismatch));
            Err(CheckpointError::Unfit { path: folder.into(), network, mismatch })
        }
    }
}
