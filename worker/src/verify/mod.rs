//! The training graph against the deployed engine, on the same images.

mod graph;
mod tally;

pub use graph::TrainedGraph;
pub use tally::Tally;
