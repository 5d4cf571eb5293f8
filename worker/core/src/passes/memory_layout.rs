//! `memory-layout`: four-dimensional values and weights are kept channels-last.

use crate::graph::{Graph, GraphError};
use crate::strategy::Strategy;

pub(super) fn apply(graph: Graph, strategy: &Strategy) -> Result<Graph, GraphError> {
    Ok(Graph { layout: strategy.layout, ..graph })
}
