//! `memory-layout`: four-dimensional values and weights are kept channels-last.

use super::Settings;
use crate::config::DataLayout;
use crate::graph::{Graph, GraphError, Layout};

pub(super) fn apply(graph: Graph, settings: &Settings) -> Result<Graph, GraphError> {
    let layout = match settings.layout {
        DataLayout::Nhwc => Layout::Nhwc,
        DataLayout::Nchw => Layout::Nchw,
    };
    Ok(Graph { layout, ..graph })
}
