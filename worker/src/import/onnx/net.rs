//! A file's nodes while they are simplified.

use super::fold::fold;
use super::value::Known;
use octrain_formats::onnx::{Constant, Finding, Model, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Numbers that folding makes at most, beside several times those that the file has.
const ROOM: usize = 1 << 22;
/// How often it may make a file's numbers anew.
const TIMES: usize = 8;

/// Nodes in the order they run, and the values that are known.
#[derive(Debug, Clone)]
pub(super) struct Net {
    pub nodes: Vec<Node>,
    pub constants: BTreeMap<String, Known>,
    pub outputs: Vec<String>,
    /// Values of the file that are not known, which is found already.
    pub unread: BTreeSet<String>,
    /// Numbers that may still be made.
    pub room: usize,
}

/// Which node makes a value, and which read it.
pub(super) struct Index {
    makers: BTreeMap<String, usize>,
    readers: BTreeMap<String, Vec<usize>>,
}

/// Operators that hand numbers on in another shape or order: what they make of an initializer still is that parameter.
const REARRANGES: [&str; 8] =
    ["Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout"];

/// The initializer that a constant is, which was folded by `node` from the first of its inputs. Exporters that store equal
/// parameters once make the others of it by an Identity, under their own names.
pub(super) fn origin(node: &Node, first: Option<&Known>) -> Option<String> {
    let before = first.filter(|_| REARRANGES.contains(&node.op.as_str()))?.origin.clone()?;
    let own = node.outputs.first().filter(|name| node.op == "Identity" && !name.starts_with('/'));
    Some(own.cloned().unwrap_or(before))
}

impl Net {
    pub fn new(model: &Model) -> Self {
        let known = |(name, constant): (&String, &Constant)| {
            let known = Known { constant: Rc::new(constant.clone()), origin: Some(name.clone()) };
            (name.clone(), known)
        };
        Self {
            nodes: model.nodes.clone(),
            constants: model.initializers.iter().map(known).collect(),
            outputs: model.outputs.iter().map(|o| o.name.clone()).collect(),
            unread: model.unread.clone(),
            room: model.initializers.values().map(|c| c.numbers.len()).sum::<usize>().saturating_mul(TIMES)
                + ROOM,
        }
    }

    /// Computes every node that reads constants alone. What cannot be computed is found.
    pub fn fold_constants(mut self, findings: &mut Vec<Finding>) -> Self {
        for node in std::mem::take(&mut self.nodes) {
            let given: Vec<Option<Known>> =
                node.inputs.iter().map(|i| self.constants.get(i).cloned()).collect();
            let known =
                node.inputs.iter().zip(&given).all(|(name, value)| name.is_empty() || value.is_some());
            let constants: Vec<Option<&Constant>> =
                given.iter().map(|k| k.as_ref().map(|k| k.constant.as_ref())).collect();
            let told = self.is_unread(&node);
            let made = if known && !told { fold(&node, &constants, &mut self.room) } else { None };
            match (made, node.outputs.first()) {
                (Some(Ok(constant)), Some(output)) => {
                    let origin = origin(&node, given.first().and_then(|k| k.as_ref()));
                    self.constants.insert(output.clone(), Known { constant: Rc::new(constant), origin });
                }
                (Some(Err(why)), _) => findings.push(Finding::at(&node, why)),
                _ => self.nodes.push(node),
            }
        }
        self
    }

    /// Whether a node cannot be read, which is found already.
    pub fn is_unread(&self, node: &Node) -> bool {
        node.outputs.iter().any(|output| self.unread.contains(output))
    }

    /// Without the nodes on which no output depends.
    pub fn live(mut self) -> Self {
        let mut wanted: BTreeSet<String> = self.outputs.iter().cloned().collect();
        let mut kept: Vec<Node> = Vec::new();
        for node in std::mem::take(&mut self.nodes).into_iter().rev() {
            if node.outputs.iter().any(|o| wanted.contains(o)) {
                wanted.extend(node.inputs.iter().cloned());
                kept.push(node);
            }
        }
        kept.reverse();
        self.nodes = kept;
        self
    }

    pub fn index(&self) -> Index {
        let (mut makers, mut readers) = (BTreeMap::new(), BTreeMap::<String, Vec<usize>>::new());
        for (i, node) in self.nodes.iter().enumerate() {
            makers.extend(node.outputs.iter().map(|o| (o.clone(), i)));
            for input in &node.inputs {
                readers.entry(input.clone()).or_default().push(i);
            }
        }
        for output in &self.outputs {
            // Whoever takes the output reads it, too.
            readers.entry(output.clone()).or_default().push(usize::MAX);
        }
        Index { makers, readers }
    }

    /// The node that makes a value, if it is one of this operator.
    pub fn made_by<'a>(&'a self, index: &Index, value: &str, op: &str) -> Option<&'a Node> {
        index.makers.get(value).map(|&i| &self.nodes[i]).filter(|n| n.op == op)
    }

    /// The only node that reads a value, with its place, if it is one of this operator.
    pub fn only_reader<'a>(&'a self, index: &Index, value: &str, op: &str) -> Option<(usize, &'a Node)> {
        match index.readers.get(value)?[..] {
            [i] => self.nodes.get(i).filter(|n| n.op == op).map(|n| (i, n)),
            _ => None,
        }
    }

    /// The one number that a value is.
    pub fn number(&self, value: &str) -> Option<f32> {
        self.constants.get(value)?.constant.number()
    }

    /// The other input of a node of two, one of which is this number.
    pub fn beside<'a>(&self, node: &'a Node, number: f32) -> Option<&'a str> {
        let near =
            |value: &str| self.number(value).is_some_and(|x| (x - number).abs() <= 1e-4 * number.abs());
        match &node.inputs[..] {
            [a, b] if near(b) => Some(a),
            [a, b] if near(a) && matches!(node.op.as_str(), "Add" | "Mul") => Some(b),
            _ => None,
        }
    }
}

/// A node in the place of others: it makes what the last of them made.
pub(super) fn instead(last: &Node, op: &str, inputs: &[&str]) -> Node {
    Node {
        name: last.name.clone(),
        op: op.into(),
        inputs: inputs.iter().map(|i| i.to_string()).collect(),
        outputs: last.outputs.clone(),
        attributes: BTreeMap::new(),
    }
}
