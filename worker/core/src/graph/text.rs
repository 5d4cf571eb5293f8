//! The text dump: one line a node, stable, meant for golden files and for reading.

use super::{Graph, Node, Op};
use std::fmt;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits =
            if self.weight_bits == 8 { String::new() } else { format!(" weight-bits={}", self.weight_bits) };
        writeln!(
            f,
            "graph {} layout={:?} parameters={} nodes={}{bits}",
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
        let shape = |name: &str| {
            self.param(name)
                .map_or("?".into(), |p| p.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x"))
        };
        let int8 = |q: bool| if q { " int8" } else { "" };
        let bias = |b: &Option<String>| if b.is_some() { " bias" } else { "" };
        match &node.op {
            Op::Conv(c) => format!(
                "Conv[{} s{} p{}{}{}{}{}]",
                shape(&c.weight),
                c.stride[0],
                c.padding[0],
                if c.groups > 1 { format!(" g{}", c.groups) } else { String::new() },
                bias(&c.bias),
                if c.folded.is_some() { " +bn" } else { "" },
                int8(c.quantized)
            ),
            Op::Linear(l) => format!("Linear[{}{}{}]", shape(&l.weight), bias(&l.bias), int8(l.quantized)),
            Op::MaxPool(w) => format!("MaxPool[{} s{} p{}]", w.kernel, w.stride, w.padding),
            Op::Quantize(q) => {
                format!("{}[{:?}]", if q.active { "Quantize" } else { "Observe" }, q.sign)
            }
            Op::Cast(d) => format!("Cast[{d}]"),
            other => other.kind().into(),
        }
    }
}
