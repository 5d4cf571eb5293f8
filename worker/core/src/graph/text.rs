//! The text dump: one line a node, stable, meant for golden files and for reading.

use super::{Graph, Node};
use std::fmt;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "graph {} layout={:?} parameters={} nodes={}",
            self.name,
            self.layout,
            self.parameter_count(),
            self.nodes.len()
        )?;
        for node in &self.nodes {
            let inputs: Vec<&str> = node.inputs.iter().map(|&i| self.node(i).name.as_str()).collect();
            writeln!(f, "  {} = {}({}) : {}", node.name, self.attributes(node), inputs.join(", "), node.ty)?;
        }
        writeln!(f, "  return {}", self.node(self.output).name)
    }
}

impl Graph {
    /// Operator with its attributes, e.g. `Conv[16x3x3x3 s1 p1 int8]`.
    pub fn attributes(&self, node: &Node) -> String {
        node.op.facts().describe(&self.shapes())
    }
}
