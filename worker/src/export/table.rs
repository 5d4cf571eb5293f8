//! The scales of a network, for runtimes and people that want them as a table.

use crate::checkpoint::{State, range_key};
use crate::graph::Graph;
use crate::quant::scheme::Sign;
use serde::Serialize;

/// Scale of one activation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ScaleEntry {
    /// Name of the value.
    pub name: String,
    /// Range: the largest code stands for it.
    pub absmax: f32,
    /// Scale: the range divided by the largest code.
    pub scale: f32,
    /// Signed or unsigned codes.
    pub sign: Sign,
    /// The largest code: 255 or 127.
    pub largest_code: i64,
    /// Whether this file quantizes it (else its range is only known).
    pub quantized: bool,
}

/// Scales of all quantizers whose range is known, in the order of the graph.
pub fn scale_table(graph: &Graph, state: &State) -> Vec<ScaleEntry> {
    graph
        .quantizers()
        .filter_map(|(_, q)| {
            let absmax = *state.get(&range_key(&q.name))?.data.first()?;
            Some(ScaleEntry {
                name: q.name.clone(),
                absmax,
                scale: q.scheme.scale(absmax)?,
                sign: q.scheme.sign,
                largest_code: q.scheme.qmax(),
                quantized: q.active,
            })
        })
        .collect()
}
