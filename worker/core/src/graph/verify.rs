//! Whole-graph checks.

use super::{Graph, GraphError, NodeId, Op, infer_type};
use std::collections::HashSet;

impl Graph {
    /// Checks order, names, parameters and types; every pass's result must satisfy it.
    pub fn verify(&self) -> Result<(), GraphError> {
        let fail = |what: String| GraphError::Malformed { graph: self.name.clone(), what };
        if !matches!(self.nodes.first().map(|n| &n.op), Some(Op::Input)) {
            return Err(fail("the first node is not the input".into()));
        }
        if self.output.0 >= self.nodes.len() {
            return Err(fail(format!(
                "its output is node {} of {}, which there is not",
                self.output.0,
                self.nodes.len()
            )));
        }
        if let Some(param) = self.params.iter().find(|p| p.checked_len().is_none()) {
            return Err(fail(format!("parameter `{}` has more scalars than can be counted", param.name)));
        }
        let mut names = HashSet::new();
        let mut used = HashSet::new();
        for (id, node) in self.iter() {
            if !names.insert(&node.name) {
                return Err(fail(format!("two nodes are named `{}`", node.name)));
            }
            if id.0 > 0 && matches!(node.op, Op::Input) {
                return Err(fail(format!("`{}` is a second input", node.name)));
            }
            let ty = infer_type(self, id)?;
            if ty != node.ty {
                return Err(GraphError::Node {
                    node: node.name.clone(),
                    op: node.op.kind(),
                    what: format!("is typed {} but makes {ty}", node.ty),
                });
            }
            if let Some(layer) = node.op.layer()
                && let Some(shared) = layer.params().into_iter().find(|p| used.contains(*p))
            {
                return Err(GraphError::Node {
                    node: node.name.clone(),
                    op: node.op.kind(),
                    what: format!(
                        "reads parameter `{shared}`, which another node reads: a layer has its own"
                    ),
                });
            }
            used.extend(node.op.params().into_iter().map(str::to_owned));
        }
        let mut params = HashSet::new();
        for p in &self.params {
            if !params.insert(&p.name) {
                return Err(fail(format!("two parameters are named `{}`", p.name)));
            }
            if !used.contains(&p.name) {
                return Err(fail(format!("no node reads parameter `{}`", p.name)));
            }
        }
        Ok(())
    }

    /// For every node, whether the output depends on it.
    pub fn live(&self) -> Vec<bool> {
        let mut live = vec![false; self.nodes.len()];
        let mut stack = vec![self.output];
        while let Some(NodeId(i)) = stack.pop() {
            if !std::mem::replace(&mut live[i], true) {
                stack.extend(&self.nodes[i].inputs);
            }
        }
        live
    }
}
