//! The intermediate representation: nodes with one output each, typed values, named parameters. No libtorch.
//!
//! A [`Graph`] is a list of [`Node`]s in topological order; a node's index names the value it makes. Types leave
//! out the batch dimension: an image is `[C, H, W]`, logits are `[classes]`.

mod build;
mod dot;
mod error;
mod facts;
mod infer;
mod initializer;
mod node;
mod ops;
#[cfg(test)]
mod tests;
mod text;
mod verify;

pub use crate::strategy::Layout;
pub use build::{Builder, Square};
pub use error::GraphError;
pub use facts::NetworkFacts;
pub use infer::infer_type;
pub use initializer::{Distribution, Initializer};
pub use node::*;
pub use ops::*;

use serde::{Deserialize, Serialize};

/// A network: nodes in topological order, parameters, one input and one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// Name of the network, e.g. `ResNet50`.
    pub name: String,
    /// Nodes; every node's inputs come before it.
    pub nodes: Vec<Node>,
    /// Parameters and buffers, in order of first use.
    pub params: Vec<Param>,
    /// The node whose value is the result.
    pub output: NodeId,
    /// Memory order of four-dimensional values.
    pub layout: Layout,
}

impl Graph {
    /// The node that makes value `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Every node with its id, in topological order.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i), n))
    }

    /// The input node: always the first.
    pub fn input(&self) -> NodeId {
        NodeId(0)
    }

    /// For every value, the nodes that read it with the position at which they do.
    pub fn consumers(&self) -> Vec<Vec<(NodeId, usize)>> {
        let mut out = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.iter() {
            for (slot, input) in node.inputs.iter().enumerate() {
                out[input.0].push((id, slot));
            }
        }
        out
    }

    /// Lets every node that reads `from` read `to` instead, and the output be `to` if it was `from`.
    pub fn reroute(&mut self, from: NodeId, to: NodeId) {
        let inputs = self.nodes.iter_mut().flat_map(|n| &mut n.inputs);
        inputs.chain([&mut self.output]).filter(|i| **i == from).for_each(|i| *i = to);
    }

    /// The parameter of this name.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|p| p.name == name)
    }

    /// The node of this name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == name).map(NodeId)
    }

    /// Trainable parameters, in order.
    pub fn trainable(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|p| p.kind.trainable())
    }

    /// Number of trainable scalars.
    pub fn parameter_count(&self) -> usize {
        self.trainable().map(Param::len).sum()
    }

    /// All activation quantizers with their nodes, in topological order.
    pub fn quantizers(&self) -> impl Iterator<Item = (NodeId, &Quantizer)> {
        self.iter().filter_map(|(id, n)| match &n.op {
            Op::Quantize(q) => Some((id, q)),
            _ => None,
        })
    }

    /// The active quantizer whose codes `value` carries: its own, or one before it through operators that hand codes on
    /// (observers that do not quantize, max pooling, changes of shape, dropout, the cast of mixed precision).
    pub fn quantizer_behind(&self, mut value: NodeId) -> Option<&Quantizer> {
        loop {
            let node = self.node(value);
            match &node.op {
                Op::Quantize(q) if q.active => return Some(q),
                op if op.facts().hands_on() => value = node.inputs[0],
                _ => return None,
            }
        }
    }

    /// The BatchNorm that is folded into a layer where its network is deployed: it alone reads the layer's value. None of
    /// other nodes, of a layer into which one was folded already, and of tokens, whose BatchNorm goes over another dimension
    /// than that of the layer's outputs.
    pub fn batch_norm_behind(&self, layer: NodeId) -> Option<(NodeId, &BatchNorm)> {
        let node = self.node(layer);
        node.op.layer().filter(|layer| layer.folded.is_none() && node.ty.shape.len() != 2)?;
        let mut readers = self.iter().filter(|(_, n)| n.inputs.contains(&layer));
        match (readers.next(), readers.next()) {
            (Some((id, Node { op: Op::BatchNorm(norm), .. })), None) if self.output != layer => {
                Some((id, norm))
            }
            _ => None,
        }
    }

    /// Whether a node is a BatchNorm that is not folded into the layer before it, but stays one where its network is deployed.
    pub fn stands_apart(&self, id: NodeId) -> bool {
        match self.node(id) {
            Node { op: Op::BatchNorm(_), inputs, .. } => {
                !inputs.iter().any(|&i| self.batch_norm_behind(i).is_some_and(|(norm, _)| norm == id))
            }
            _ => false,
        }
    }

    /// Shapes of its parameters.
    pub fn shapes(&self) -> Shapes<'_> {
        Shapes::new(&self.params)
    }

    /// Types all values anew and checks the whole graph; passes end with it.
    pub fn retype(mut self) -> Result<Graph, GraphError> {
        for i in 0..self.nodes.len() {
            let ty = infer_type(&self, NodeId(i))?;
            self.nodes[i].ty = ty;
        }
        self.verify()?;
        Ok(self)
    }
}
