//! Which weights fit a network.

use super::State;
use crate::data::listed;
use crate::graph::Graph;
use std::fmt;

/// How a set of weights differs from what a network wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mismatch {
    /// The network has it, the weights do not.
    pub missing: Vec<String>,
    /// The weights have it, the network does not.
    pub unexpected: Vec<String>,
    /// Both have it, in other shapes: name, wanted, found.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Mismatch {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.shapes.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes: Vec<String> =
            self.shapes.iter().map(|(n, want, got)| format!("{n} is {got:?}, not {want:?}")).collect();
        let mut parts = Vec::new();
        for (what, names) in
            [("missing", &self.missing), ("left over", &self.unexpected), ("of another shape", &shapes)]
        {
            if names.is_empty() {
                continue;
            }
            parts.push(format!("{} {what}: {}", names.len(), listed(names)));
        }
        f.write_str(&parts.join("; "))
    }
}

/// Compares weights with the network's parameters and statistics by name and shape. Quantizers' ranges are not
/// parameters: they are neither missing nor left over.
pub fn match_weights(graph: &Graph, state: &State) -> Mismatch {
    let mut out = Mismatch::default();
    for p in &graph.params {
        match state.get(&p.name) {
            None => out.missing.push(p.name.clone()),
            Some(t) if t.shape != p.shape => {
                out.shapes.push((p.name.clone(), p.shape.clone(), t.shape.clone()))
            }
            Some(_) => {}
        }
    }
    let known = |name: &str| graph.param(name).is_some() || name.starts_with("quant.");
    out.unexpected = state.keys().filter(|n| !known(n)).cloned().collect();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::HostTensor;
    use crate::models;

    #[test]
    fn differences_are_listed_by_kind() {
        let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let mut state: State = graph
            .params
            .iter()
            .map(|p| (p.name.clone(), HostTensor { shape: p.shape.clone(), data: vec![0.0; p.len()] }))
            .collect();
        state.insert("quant.relu.absmax".into(), HostTensor { shape: vec![1], data: vec![1.0] });
        assert!(match_weights(&graph, &state).is_empty());
        state.remove("fc.bias");
        state.insert("extra".into(), HostTensor::default());
        state.get_mut("fc.weight").unwrap().shape = vec![5, 64];
        let text = match_weights(&graph, &state).to_string();
        for want in ["1 missing: fc.bias", "1 left over: extra", "fc.weight is [5, 64], not [10, 64]"] {
            assert!(text.contains(want), "{text}");
        }
    }
}
