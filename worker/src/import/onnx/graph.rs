//! The graph while it is made: nodes with names of their own, parameters with the numbers of the file.

use super::strides::elements;
use super::value::Known;
use crate::checkpoint::{HostTensor, State};
use crate::graph::{
    DType, Graph, Initializer, Layout, Node, NodeId, Op, Param, ParamKind, Parameter, TensorType, infer_type,
};
use crate::quant::placement;
use crate::quant::scheme::Sign;
use std::collections::BTreeSet;

/// Where checkpoints keep what is no parameter.
const TAKEN: [&str; 2] = ["quant.", "momentum."];

/// A graph with the numbers of its parameters.
pub(super) struct Made {
    pub graph: Graph,
    pub state: State,
    names: BTreeSet<String>,
    /// Parameters that several nodes of the file read, which have one each here.
    pub copied: Vec<String>,
}

impl Made {
    /// A graph whose input has this shape.
    pub fn new(name: &str, input: Vec<usize>) -> Self {
        let ty = TensorType { shape: input, dtype: DType::F32 };
        let input = Node { name: "input".into(), op: Op::Input, inputs: vec![], ty };
        let graph = Graph {
            name: name.into(),
            nodes: vec![input],
            params: vec![],
            output: NodeId(0),
            layout: Layout::Nchw,
        };
        Self { graph, state: State::new(), names: BTreeSet::from(["input".to_string()]), copied: vec![] }
    }

    /// Shape of a value.
    pub fn shape(&self, id: NodeId) -> &[usize] {
        &self.graph.node(id).ty.shape
    }

    /// Appends a node, under a name of its own that begins with this one.
    pub fn push(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> Result<NodeId, String> {
        let name = free(name, |name| self.names.contains(name));
        let id = NodeId(self.graph.nodes.len());
        let ty = TensorType { shape: vec![], dtype: DType::F32 };
        self.graph.nodes.push(Node { name: name.clone(), op, inputs: inputs.to_vec(), ty });
        match infer_type(&self.graph, id) {
            Ok(ty) => {
                self.graph.nodes[id.0].ty = ty;
                self.names.insert(name);
                Ok(id)
            }
            Err(e) => {
                self.graph.nodes.pop();
                Err(match e {
                    crate::graph::GraphError::Node { what, .. } => what,
                    other => other.to_string(),
                })
            }
        }
    }

    /// Declares a parameter with its numbers, named as the file names them, or `otherwise` where they were computed. The name
    /// that it has.
    pub fn param(
        &mut self,
        known: &Known,
        otherwise: &str,
        shape: &[usize],
        data: Vec<f32>,
        kind: ParamKind,
    ) -> Result<String, String> {
        if elements(shape) != Some(data.len()) {
            return Err(format!("its constant has {} numbers; {shape:?} wants others", data.len()));
        }
        let wanted = known.origin.as_deref().filter(|name| !name.is_empty()).unwrap_or(otherwise);
        let wanted = match TAKEN.iter().any(|prefix| wanted.starts_with(prefix)) {
            true => format!("onnx.{wanted}"),
            false => wanted.to_string(),
        };
        let name = free(&wanted, |name| self.state.contains_key(name));
        if name != wanted && known.origin.is_some() {
            self.copied.push(wanted);
        }
        self.state.insert(name.clone(), HostTensor { shape: shape.to_vec(), data });
        self.graph.params.push(Param {
            name: name.clone(),
            shape: shape.to_vec(),
            kind,
            initializer: Initializer::default(),
        });
        Ok(name)
    }

    /// A constant as a value of this shape, the same for every image: a parameter where the file has it as such, else numbers
    /// that are not trained.
    pub fn value_of(
        &mut self,
        known: &Known,
        name: &str,
        shape: Vec<usize>,
        kind: ParamKind,
    ) -> Result<NodeId, String> {
        let data =
            known.constant.as_floats().ok_or("reads whole numbers, and the image's are none")?.to_vec();
        let op = match known.origin {
            Some(_) => {
                let of_batch = [&[1], &shape[..]].concat();
                let made = self.param(known, name, &of_batch, data, kind)?;
                Op::Parameter(Parameter::new(made))
            }
            None => Op::Constant(crate::graph::Constant { shape, values: data, compute: DType::F32 }),
        };
        self.push(&format!("{name}.constant"), op, &[])
    }

    /// Whether a value is never below 0.
    pub fn is_positive(&self, id: NodeId) -> bool {
        placement::sign(&self.graph, id) == Sign::Unsigned
    }

    /// The finished graph, without nodes and parameters on which `output` does not depend.
    pub fn finish(mut self, output: NodeId) -> (Graph, State, Vec<String>) {
        self.graph.output = output;
        let live = self.graph.live();
        let mut place = vec![NodeId(0); live.len()];
        let mut kept = Vec::new();
        for (i, mut node) in self.graph.nodes.into_iter().enumerate() {
            if live[i] || i == 0 {
                place[i] = NodeId(kept.len());
                node.inputs.iter_mut().for_each(|input| *input = place[input.0]);
                kept.push(node);
            }
        }
        let read: BTreeSet<String> = kept.iter().flat_map(|n| n.op.params()).map(str::to_string).collect();
        self.graph.nodes = kept;
        self.graph.output = place[output.0];
        self.graph.params.retain(|p| read.contains(&p.name));
        self.state.retain(|name, _| read.contains(name));
        self.copied.retain(|name| read.contains(name));
        (self.graph, self.state, self.copied)
    }
}

/// A name that is not taken yet: this one, or with a number behind it.
fn free(wanted: &str, taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|n| format!("{wanted}.{n}"));
    std::iter::once(wanted.to_string()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}
