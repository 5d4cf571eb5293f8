//! The picture: Graphviz DOT.

use super::{Graph, Op};
use std::fmt::Write;

impl Graph {
    /// The graph in Graphviz's DOT language.
    pub fn to_dot(&self) -> String {
        let mut out =
            format!("digraph \"{}\" {{\n  node [shape=box style=filled fontname=monospace];\n", self.name);
        for (id, node) in self.iter() {
            let colour = match (&node.op, node.op.layer()) {
                (_, Some(layer)) if layer.quantized() => "#9fd6a0",
                (_, Some(_)) => "#a9c7ee",
                (Op::Quantize(q), _) if q.active => "#ffd27f",
                (Op::Quantize(_), _) => "#fff3d6",
                (Op::Cast(_), _) => "#e0c8ee",
                _ => "#f2f2f2",
            };
            let label = format!("{}\\n{}\\n{}", node.name, self.attributes(node), node.ty);
            let _ = writeln!(out, "  n{} [label=\"{label}\" fillcolor=\"{colour}\"];", id.0);
            for input in &node.inputs {
                let _ = writeln!(out, "  n{} -> n{};", input.0, id.0);
            }
        }
        out.push_str("}\n");
        out
    }
}
