//! A graph that is being made of a program: what its names stand for.

use super::lower::result;
use crate::graph::{
    DType, Graph, Initializer, Layout, Node, NodeId, Op, Param, ParamKind, TensorType, infer_type,
};
use octrain_formats::paddle::{self, Attribute, Program};
use std::collections::{BTreeMap, BTreeSet};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given {
    /// The value of a node.
    Value(NodeId),
    /// A parameter of the program.
    Param(String),
}

/// A graph in the making.
pub(super) struct Sketch<'a> {
    program: &'a Program,
    graph: Graph,
    names: BTreeMap<String, Given>,
    /// Numbers that are values of the program and attributes of operators here.
    numbers: BTreeMap<String, Attribute>,
    transposed: BTreeSet<String>,
    channels_last: bool,
}

impl<'a> Sketch<'a> {
    /// A graph of an image alone.
    pub fn new(program: &'a Program, image: &str, shape: [usize; 3], channels_last: bool) -> Self {
        let ty = TensorType { shape: shape.to_vec(), dtype: DType::F32 };
        let input = Node { name: image.into(), op: Op::Input, inputs: Vec::new(), ty };
        let graph = Graph {
            name: String::new(),
            nodes: vec![input],
            params: Vec::new(),
            output: NodeId(0),
            layout: Layout::Nchw,
        };
        let names = BTreeMap::from([(image.to_string(), Given::Value(NodeId(0)))]);
        Self { program, graph, names, numbers: BTreeMap::new(), transposed: BTreeSet::new(), channels_last }
    }

    /// Whether the program has channels as the last dimension. Shapes have them as the first one here.
    pub fn channels_last(&self) -> bool {
        self.channels_last
    }

    /// What a name stands for.
    pub fn given(&self, name: &str) -> Result<Given, String> {
        let of_program = || {
            let var = self.program.vars.get(name).filter(|var| var.persistable)?;
            var.shape.as_ref().map(|_| Given::Param(name.into()))
        };
        let given = self.names.get(name).cloned().or_else(of_program);
        given.ok_or_else(|| format!("reads `{name}`, which is no value of the network"))
    }

    /// The value that a name stands for.
    fn value(&self, name: &str) -> Result<NodeId, String> {
        match self.given(name)? {
            Given::Value(id) => Ok(id),
            Given::Param(name) => Err(format!("reads the parameter `{name}` as a value")),
        }
    }

    /// Shape of a value without the batch, channels first.
    pub fn shape(&self, name: &str) -> Result<&[usize], String> {
        Ok(&self.graph.node(self.value(name)?).ty.shape)
    }

    /// Shape that the program gives a parameter.
    pub fn param_shape(&self, name: &str) -> Result<Vec<usize>, String> {
        let Given::Param(name) = self.given(name)? else {
            return Err(format!("reads `{name}`, which is no parameter"));
        };
        let shape = self.program.vars.get(&name).and_then(|var| var.shape.as_ref());
        let shape = shape.ok_or_else(|| format!("reads `{name}`, which has no shape"))?;
        let sizes = shape.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>();
        sizes.ok_or_else(|| format!("reads `{name}`, whose shape {shape:?} is open"))
    }

    fn declare(&mut self, name: String, shape: Vec<usize>, kind: ParamKind) -> Result<String, String> {
        match self.graph.param(&name) {
            Some(_) => Err(format!("shares `{name}` with another operator")),
            None => {
                self.graph.params.push(Param {
                    name: name.clone(),
                    shape,
                    kind,
                    initializer: Initializer::default(),
                });
                Ok(name)
            }
        }
    }

    /// Declares a parameter that an operator reads; its name.
    pub fn param(&mut self, name: &str, kind: ParamKind) -> Result<String, String> {
        let shape = self.param_shape(name)?;
        match self.given(name)? {
            Given::Param(name) => self.declare(name, shape, kind),
            Given::Value(_) => Err(format!("reads `{name}`, which is no parameter")),
        }
    }

    /// Declares the weight of a product, `[out, in]`, which the program has as it is or `turned`.
    pub fn matrix(&mut self, name: &str, turned: bool) -> Result<String, String> {
        let mut shape = self.param_shape(name)?;
        if shape.len() != 2 {
            return Err(format!(
                "multiplies by `{name}` of shape {shape:?}, where two dimensions are expected"
            ));
        }
        if turned {
            shape.reverse();
        }
        let Given::Param(name) = self.given(name)? else {
            return Err(format!("reads `{name}`, which is no parameter"));
        };
        if turned {
            self.transposed.insert(name.clone());
        }
        self.declare(name, shape, ParamKind::LinearWeight)
    }

    /// Appends a node for an operator.
    pub fn push(&mut self, op: &paddle::Op, made: Op, inputs: &[&str]) -> Result<(), String> {
        let inputs = inputs.iter().map(|name| self.value(name)).collect::<Result<Vec<_>, _>>()?;
        let name = result(op).ok_or("makes no value")?;
        let id = NodeId(self.graph.nodes.len());
        let ty = TensorType { shape: Vec::new(), dtype: DType::F32 };
        // What works in place has the name of what it reads.
        let own = if self.names.contains_key(name) { format!("{name}.{}", id.0) } else { name.into() };
        self.graph.nodes.push(Node { name: own, op: made, inputs, ty });
        match infer_type(&self.graph, id) {
            Ok(ty) => self.graph.nodes[id.0].ty = ty,
            Err(e) => {
                self.graph.nodes.pop();
                return Err(format!("does not fit: {e}"));
            }
        }
        self.names.insert(name.into(), Given::Value(id));
        Ok(())
    }

    /// Gives a layer that has none its bias, which the program adds to its value.
    pub fn bias(&mut self, op: &paddle::Op, value: NodeId, bias: &str) -> Result<(), String> {
        let alone = self.graph.nodes.iter().filter(|node| node.inputs.contains(&value)).count() == 0;
        let node = &self.graph.nodes[value.0];
        let free = node.op.layer().is_some_and(|layer| layer.bias.is_none());
        if !alone || !free {
            return Err(format!("adds the parameter `{bias}` to what is no product without a bias"));
        }
        let out = match &node.op {
            Op::Conv(_) => node.ty.shape.first(),
            _ => node.ty.shape.last(),
        };
        let out = out.copied().unwrap_or(0);
        let len: usize = self.param_shape(bias)?.iter().product();
        if len != out {
            return Err(format!("adds `{bias}` of {len} numbers to {out} outputs"));
        }
        let bias = self.declare(bias.into(), vec![out], ParamKind::Bias)?;
        if let Some(layer) = self.graph.nodes[value.0].op.layer_mut() {
            layer.bias = Some(bias);
        }
        let name = result(op).ok_or("makes no value")?;
        self.names.insert(name.into(), Given::Value(value));
        Ok(())
    }

    /// Lets what an operator makes be what it reads first.
    pub fn alias(&mut self, op: &paddle::Op) {
        let before = ["X", "Input"].iter().find_map(|argument| op.input(argument, 0));
        let given = before.and_then(|name| self.given(name).ok());
        if let (Some(given), Some(name)) = (given, result(op)) {
            self.names.insert(name.into(), given);
        }
    }

    /// Keeps what an operator makes that is numbers and nothing else.
    pub fn keep_numbers(&mut self, op: &paddle::Op) {
        let told = op.attributes.get("value").or_else(|| op.attributes.get("shape"));
        if let (Some(told), Some(name)) = (told, result(op)) {
            self.numbers.insert(name.into(), told.clone());
        }
    }

    /// Whole numbers that an operator reads as its second argument.
    pub fn ints_of(&self, op: &paddle::Op) -> Option<Vec<i64>> {
        match self.numbers.get(op.input("", 1)?)? {
            Attribute::Ints(all) => Some(all.clone()),
            _ => None,
        }
    }

    /// The number that an operator reads as an argument.
    pub fn number_of(&self, op: &paddle::Op, place: usize) -> Option<f64> {
        match self.numbers.get(op.input("", place)?)? {
            Attribute::Float(number) => Some(*number),
            Attribute::Int(number) => Some(*number as f64),
            _ => None,
        }
    }

    /// The finished graph whose result is this value, and its transposed parameters.
    pub fn finish(mut self, name: &str, output: &str) -> Result<(Graph, BTreeSet<String>), String> {
        self.graph.output = self.value(output)?;
        self.graph.name = name.into();
        self.graph.verify().map_err(|e| e.to_string())?;
        let output = &self.graph.node(self.graph.output).ty.shape;
        match output[..] {
            [_] => Ok((self.graph, self.transposed)),
            _ => Err(format!("its result is of shape {output:?}, and that of a classifier is one row")),
        }
    }
}
