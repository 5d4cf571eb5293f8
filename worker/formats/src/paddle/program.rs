//! Programs: what a network computes, as a list of operators on named values.

use super::wire::{Fields, Value};
use crate::FormatError;
use std::collections::BTreeMap;

/// Blocks, variables, operators, arguments and attributes of a program together; a training of ResNet-152 has 100,000.
const MOST: usize = 1 << 20;
/// Kinds of variables that hold no tensor of the network's: feeding, fetching, readers, raw ones.
const NO_TENSOR: [i64; 4] = [9, 10, 15, 17];

/// A program. Its first block is the network; others belong to operators that choose or loop.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Program {
    /// Variables by name.
    pub vars: BTreeMap<String, Var>,
    /// Operators, in the order in which they run.
    pub ops: Vec<Op>,
    /// Blocks besides the first one.
    pub inner_blocks: usize,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Var {
    /// Sizes of the dimensions, -1 where they are open; none where it is no tensor.
    pub shape: Option<Vec<i64>>,
    /// It stays from run to run: a parameter, a buffer, or state of an optimizer.
    pub persistable: bool,
    /// It is said to be a parameter or buffer of the network, which programs for inference say of none.
    pub is_parameter: bool,
}

/// An operator.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Op {
    /// What it does, e.g. `conv2d`.
    pub kind: String,
    /// Names of the values it reads, by the name of the argument, or in programs of Paddle 3 by its place.
    pub inputs: Vec<(String, Vec<String>)>,
    /// Names of the values it makes, likewise.
    pub outputs: Vec<(String, Vec<String>)>,
    /// How it does it.
    pub attributes: BTreeMap<String, Attribute>,
}

/// An attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A word.
    Text(String),
    /// Yes or no.
    Bool(bool),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f64>),
    /// Words.
    Texts(Vec<String>),
    /// Anything else.
    Other,
}

impl Program {
    /// Names of parameters and buffers, sorted, which is the order of `.pdiparams`. A program says which they are, or, as
    /// those for inference, has nothing else that stays.
    pub fn parameters(&self) -> Vec<&str> {
        let said = self.vars.values().any(|var| var.is_parameter);
        let wanted = |var: &Var| if said { var.is_parameter } else { var.persistable };
        self.vars.iter().filter(|(_, var)| wanted(var)).map(|(name, _)| name.as_str()).collect()
    }
}

impl Op {
    fn named<'a>(all: &'a [(String, Vec<String>)], name: &str, place: usize) -> Option<&'a str> {
        let place = place.to_string();
        let found = all.iter().find(|(key, _)| key == name || *key == place)?;
        found.1.first().map(String::as_str)
    }

    /// The value read as an argument, by its name, or by its place in programs of Paddle 3.
    pub fn input(&self, name: &str, place: usize) -> Option<&str> {
        Self::named(&self.inputs, name, place)
    }

    /// The value that it makes, likewise.
    pub fn output(&self, name: &str, place: usize) -> Option<&str> {
        Self::named(&self.outputs, name, place)
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name)? {
            Attribute::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// A number.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.attributes.get(name)? {
            Attribute::Float(n) => Some(*n),
            _ => None,
        }
    }

    /// A word.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name)? {
            Attribute::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Yes or no; no where nothing is said.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.attributes.get(name), Some(Attribute::Bool(true)))
    }

    /// Whole numbers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name)? {
            Attribute::Ints(all) => Some(all),
            _ => None,
        }
    }
}

/// Whether a file begins with a block that is numbered 0 and has no parent.
pub(super) fn plausible(bytes: &[u8]) -> bool {
    // Field 1, a length of up to five bytes, then fields 1 and 2 of the block: 0 and -1.
    let Some((&0x0a, rest)) = bytes.split_first() else { return false };
    let Some(end) = rest.iter().take(5).position(|b| b & 0x80 == 0) else { return false };
    rest[end + 1..].starts_with(&[0x08, 0x00, 0x10, 0xff, 0xff, 0xff, 0xff])
}

/// Counts what is made of a file.
#[derive(Default)]
pub(super) struct Count(usize);

impl Count {
    pub fn more(&mut self, n: usize) -> Result<(), FormatError> {
        self.0 += n;
        if self.0 > MOST {
            let found = format!("it has more than {MOST} parts");
            return Err(FormatError::Foreign { wanted: "a program of Paddle's", found });
        }
        Ok(())
    }
}

/// Reads a `.pdmodel`.
pub(super) fn read(bytes: &[u8]) -> Result<Program, FormatError> {
    let (mut out, mut count, mut blocks) = (Program::default(), Count::default(), 0);
    for field in Fields::of(bytes) {
        if let (1, value) = field? {
            count.more(1)?;
            if blocks == 0 {
                block(value.bytes()?, &mut out, &mut count)?;
            }
            blocks += 1;
        }
    }
    if blocks == 0 {
        let found = "it has no block; a .pdmodel, or the .json of Paddle 3, has one".into();
        return Err(FormatError::Foreign { wanted: "a program of Paddle's", found });
    }
    out.inner_blocks = blocks - 1;
    Ok(out)
}

fn block(message: &[u8], out: &mut Program, count: &mut Count) -> Result<(), FormatError> {
    for field in Fields::of(message) {
        match field? {
            (3, value) => {
                count.more(1)?;
                let (name, var) = var(value.bytes()?)?;
                out.vars.insert(name, var);
            }
            (4, value) => {
                count.more(1)?;
                out.ops.push(op(value.bytes()?, count)?);
            }
            _ => {}
        }
    }
    Ok(())
}

fn var(message: &[u8]) -> Result<(String, Var), FormatError> {
    let (mut name, mut var, mut kind) = (String::new(), Var::default(), 0);
    for field in Fields::of(message) {
        match field? {
            (1, value) => name = value.text()?,
            (2, value) => (kind, var.shape) = var_type(value.bytes()?)?,
            (3, value) => var.persistable = value.bool()?,
            (5, value) => var.is_parameter = value.bool()?,
            _ => {}
        }
    }
    var.persistable &= !NO_TENSOR.contains(&kind);
    Ok((name, var))
}

/// Kind of a variable, and its shape where it is a tensor.
fn var_type(message: &[u8]) -> Result<(i64, Option<Vec<i64>>), FormatError> {
    let (mut kind, mut shape) = (0, None);
    for field in Fields::of(message) {
        match field? {
            (1, value) => kind = value.int()?,
            (3, value) => {
                for field in Fields::of(value.bytes()?) {
                    if let (1, tensor) = field? {
                        shape = Some(dims(tensor.bytes()?)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok((kind, shape))
}

fn dims(tensor: &[u8]) -> Result<Vec<i64>, FormatError> {
    let mut dims = Vec::new();
    for field in Fields::of(tensor) {
        if let (2, value) = field? {
            value.ints(&mut dims)?;
        }
    }
    Ok(dims)
}

fn op(message: &[u8], count: &mut Count) -> Result<Op, FormatError> {
    let mut out = Op::default();
    for field in Fields::of(message) {
        match field? {
            (1, value) => out.inputs.push(arguments(value.bytes()?, count)?),
            (2, value) => out.outputs.push(arguments(value.bytes()?, count)?),
            (3, value) => out.kind = value.text()?,
            (4, value) => {
                count.more(1)?;
                let (name, attribute) = attribute(value.bytes()?, count)?;
                out.attributes.insert(name, attribute);
            }
            _ => {}
        }
    }
    Ok(out)
}

fn arguments(message: &[u8], count: &mut Count) -> Result<(String, Vec<String>), FormatError> {
    let (mut name, mut values) = (String::new(), Vec::new());
    count.more(1)?;
    for field in Fields::of(message) {
        match field? {
            (1, value) => name = value.text()?,
            (2, value) => {
                count.more(1)?;
                values.push(value.text()?);
            }
            _ => {}
        }
    }
    Ok((name, values))
}

fn attribute(message: &[u8], count: &mut Count) -> Result<(String, Attribute), FormatError> {
    let (mut name, mut kind, mut one) = (String::new(), 0, Attribute::Other);
    let (mut ints, mut floats, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            1 => name = value.text()?,
            2 => kind = value.int()?,
            3 | 13 => one = Attribute::Int(value.int()?),
            4 | 19 => one = Attribute::Float(value.float()?),
            5 => one = Attribute::Text(value.text()?),
            10 => one = Attribute::Bool(value.bool()?),
            6 | 15 => value.ints(&mut ints)?,
            7 => value.floats(&mut floats)?,
            8 => {
                count.more(1)?;
                texts.push(value.text()?);
            }
            _ => {}
        }
        // Numbers one by one are parts as well; packed ones are few bytes each.
        if matches!(value, Value::Varint(_) | Value::Fixed32(_)) {
            count.more(1)?;
        }
    }
    // An empty list has no field, so the type says what it is a list of.
    let attribute = match kind {
        3 | 11 => Attribute::Ints(ints),
        4 => Attribute::Floats(floats),
        5 => Attribute::Texts(texts),
        _ => one,
    };
    Ok((name, attribute))
}
