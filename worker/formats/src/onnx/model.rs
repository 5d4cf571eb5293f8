//! A file as a model: what it computes, as plain data.

use super::order::sorted;
use super::proto::attribute_proto::AttributeType;
use super::proto::tensor_shape_proto::dimension::Value;
use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use super::tensor::{Beside, Constant, elsewhere, read, type_name};
use super::wire;
use crate::FormatError;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something in a file that is not taken, or cannot be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The node, value or tensor, as the file names it; empty for the file as a whole.
    pub place: String,
    /// What it is and what to do.
    pub what: String,
}

impl Finding {
    /// Of the file as a whole.
    pub fn of_file(what: impl Into<String>) -> Self {
        Self { place: String::new(), what: what.into() }
    }

    /// Of a node.
    pub fn at(node: &Node, what: impl fmt::Display) -> Self {
        Self { place: format!("node `{}` ({})", node.name, node.op), what: what.to_string() }
    }

    fn of(kind: &str, name: &str, what: impl Into<String>) -> Self {
        Self { place: format!("{kind} `{name}`"), what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// A size of an input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Size {
    /// So many.
    Fixed(usize),
    /// Left open, under this name; empty where it has none.
    Open(String),
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name of the value.
    pub name: String,
    /// Type of its elements, as the standard writes it: `FLOAT`, `FLOAT16`.
    pub element: String,
    /// Its sizes; none where the file does not say how many it has.
    pub sizes: Option<Vec<Size>>,
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A whole number.
    Integer(i64),
    /// Several.
    Integers(Vec<i64>),
    /// A floating-point number.
    Float(f32),
    /// Several.
    Floats(Vec<f32>),
    /// A word.
    Text(String),
    /// A tensor.
    Tensor(Constant),
}

/// A node of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name; that of its first output where the file gives it none.
    pub name: String,
    /// Operator of the standard's default domain; one of another domain has that in front: `com.microsoft.FusedConv`.
    pub op: String,
    /// Values it reads; empty names are inputs that are left out.
    pub inputs: Vec<String>,
    /// Values it makes.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
}

/// What a file computes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Model {
    /// Name of its graph.
    pub name: String,
    /// What wrote it, with its version where it says that.
    pub producer: String,
    /// Version of the standard's operators.
    pub opset: i64,
    /// Inputs that are no initializers.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Initializers.
    pub initializers: BTreeMap<String, Constant>,
    /// Nodes, each after those whose values it reads.
    pub nodes: Vec<Node>,
    /// Values that are in the file and not known, each with a finding of its own: initializers that cannot be read, and what
    /// nodes make of which an attribute cannot. Who reads them misses nothing.
    pub unread: BTreeSet<String>,
    /// The writer's own entries.
    pub metadata: BTreeMap<String, String>,
    /// All that is not taken.
    pub findings: Vec<Finding>,
}

/// A file of ONNX, decoded and not yet checked.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    model: ModelProto,
    bytes: usize,
}

impl File {
    /// Decodes a file.
    ///
    /// # Errors
    /// When it is damaged, or no ONNX file.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        wire::count(bytes)?;
        let model = ModelProto::decode(bytes).map_err(FormatError::damaged)?;
        match model.graph {
            Some(_) => Ok(Self { model, bytes: bytes.len() }),
            None => Err(FormatError::Foreign { wanted: "an ONNX file", found: "it has no graph".into() }),
        }
    }

    fn graph(&self) -> &GraphProto {
        self.model.graph.as_ref().unwrap_or_else(|| unreachable!("decoding asks for one"))
    }

    /// The files that hold tensors of it, by the paths it gives them, relative to its own folder. They are the file's own
    /// words: whoever opens them says which are allowed.
    pub fn beside(&self) -> BTreeSet<String> {
        let tensors = self.graph().initializer.iter();
        tensors.filter_map(|t| elsewhere(t).map(|(name, ..)| name.to_string())).collect()
    }

    /// The model of the file, with the bytes of the files of [`File::beside`], or why one of them is not read. All its constants together have at most as many
    /// elements as the files have bytes.
    pub fn read(&self, beside: Beside) -> Model {
        let graph = self.graph();
        let mut room = beside.values().flatten().fold(self.bytes, |n, file| n.saturating_add(file.len()));
        let mut findings = Vec::new();
        let opset = self.opset(&mut findings);
        let (mut initializers, mut unread) = (BTreeMap::new(), BTreeSet::new());
        for tensor in &graph.initializer {
            match read(tensor, beside, &mut room) {
                Ok(constant) => {
                    if initializers.insert(tensor.name().to_string(), constant).is_some() {
                        findings.push(Finding::of("initializer", tensor.name(), "there are two of the name"));
                    }
                }
                Err(why) => {
                    findings.push(Finding::of("initializer", tensor.name(), why));
                    unread.insert(tensor.name().to_string());
                }
            }
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |t| t.name());
            findings.push(Finding::of("initializer", name, "it is sparse; write it dense"));
            unread.insert(name.to_string());
        }
        let stored = |name: &str| initializers.contains_key(name) || unread.contains(name);
        let inputs: Vec<Port> = graph.input.iter().filter(|v| !stored(v.name())).map(port).collect();
        let (mut nodes, mut unknown) = (Vec::new(), Vec::new());
        for proto in &graph.node {
            let known = findings.len();
            let node = node(proto, beside, &mut room, &mut findings);
            if findings.len() > known {
                unknown.extend(node.outputs.iter().cloned());
            }
            nodes.push(node);
        }
        let named = inputs.iter().map(|p| &p.name).chain(initializers.keys()).chain(&unread);
        let given = named.cloned().collect();
        let nodes = sorted(nodes, &given, &mut findings);
        unread.extend(unknown);
        let made: BTreeSet<&str> =
            nodes.iter().flat_map(|n| &n.outputs).chain(&given).map(String::as_str).collect();
        for output in graph.output.iter().filter(|o| !made.contains(o.name())) {
            findings.push(Finding::of("output", output.name(), "nothing makes it"));
        }
        if !self.model.functions.is_empty() {
            findings.push(Finding::of_file(
                "it has functions of its own; inline them: onnx.inliner.inline_local_functions",
            ));
        }
        let metadata = self.model.metadata_props.iter();
        Model {
            name: graph.name().into(),
            producer: format!("{} {}", self.model.producer_name(), self.model.producer_version())
                .trim()
                .into(),
            opset,
            inputs,
            outputs: graph.output.iter().map(port).collect(),
            initializers,
            nodes,
            unread,
            metadata: metadata.map(|e| (e.key().into(), e.value().into())).collect(),
            findings,
        }
    }

    /// Version of the standard's operators; 0 where the file does not say.
    fn opset(&self, findings: &mut Vec<Finding>) -> i64 {
        let standard = self.model.opset_import.iter().filter(|set| is_standard(set.domain()));
        let version = standard.map(|set| set.version()).max();
        if version.is_none() {
            findings
                .push(Finding::of_file("it does not say which version of the standard's operators it uses"));
        }
        version.unwrap_or(0)
    }
}

fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

fn port(value: &ValueInfoProto) -> Port {
    let size = |value: &Option<Value>| match value {
        Some(Value::DimValue(n)) if *n > 0 => Size::Fixed(usize::try_from(*n).unwrap_or(usize::MAX)),
        Some(Value::DimParam(name)) => Size::Open(name.clone()),
        _ => Size::Open(String::new()),
    };
    let shape = value.tensor().and_then(|t| t.shape.as_ref());
    Port {
        name: value.name().into(),
        element: value.tensor().map_or_else(|| "no tensor".into(), |t| type_name(t.elem_type())),
        sizes: shape.map(|shape| shape.dim.iter().map(|d| size(&d.value)).collect()),
    }
}

fn node(proto: &NodeProto, beside: Beside, room: &mut usize, findings: &mut Vec<Finding>) -> Node {
    let name = match proto.name() {
        "" => proto.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default(),
        name => name.into(),
    };
    let own = is_standard(proto.domain());
    let mut node = Node {
        name,
        op: if own { proto.op_type().into() } else { format!("{}.{}", proto.domain(), proto.op_type()) },
        inputs: proto.input.clone(),
        outputs: proto.output.clone(),
        attributes: BTreeMap::new(),
    };
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // Of another domain's operators nothing is known, and their attributes say nothing.
    for given in proto.attribute.iter().filter(|_| own) {
        match attribute(given, beside, room) {
            Ok(value) => drop(node.attributes.insert(given.name().into(), value)),
            Err(why) => wrong.entry(why).or_default().push(format!("`{}`", given.name())),
        }
    }
    for (why, names) in wrong {
        findings.push(Finding::at(&node, format!("its attribute {}: {why}", names.join(" and "))));
    }
    node
}

fn attribute(given: &AttributeProto, beside: Beside, room: &mut usize) -> Result<Attribute, String> {
    Ok(match given.r#type() {
        AttributeType::Int => Attribute::Integer(given.i()),
        AttributeType::Ints => Attribute::Integers(given.ints.clone()),
        AttributeType::Float => Attribute::Float(given.f()),
        AttributeType::Floats => Attribute::Floats(given.floats.clone()),
        AttributeType::String => Attribute::Text(String::from_utf8_lossy(given.s()).into_owned()),
        AttributeType::Tensor => Attribute::Tensor(read(&given.t.clone().unwrap_or_default(), beside, room)?),
        AttributeType::Graph | AttributeType::Graphs => {
            return Err("it is a subgraph; what a network does must not depend on the image".into());
        }
        other => return Err(format!("it is of the kind {}, which is not taken", other.as_str_name())),
    })
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
