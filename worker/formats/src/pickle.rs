//! Python's pickles, read as data.
//!
//! A pickle is a program for a stack machine that may name any function and call it. This interpreter calls none: a call
//! becomes an [`Node::Object`] that says what would have been called, and who reads it recognises the few constructors that
//! tensors are made by. Protocols 0 to 5, without out-of-band buffers and extension codes.

mod machine;

use crate::FormatError;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// Place of a value in a [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(u32);

/// A value. Values refer to each other by place, so that shared ones and circles are what they are in Python.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `None`.
    None,
    /// `True` and `False`.
    Bool(bool),
    /// An integer of up to 64 bits.
    Int(i64),
    /// An integer of more bits, little-endian two's complement.
    Long(Vec<u8>),
    /// A float.
    Float(f64),
    /// `str`.
    Text(String),
    /// `bytes` or `bytearray`.
    Bytes(Vec<u8>),
    /// `tuple` or `frozenset`.
    Tuple(Vec<Id>),
    /// `list` or `set`.
    List(Vec<Id>),
    /// `dict`, in the order of insertion; a key may come twice, and the last one counts.
    Dict(Vec<(Id, Id)>),
    /// Something of a module, by name: `torch._utils`, `_rebuild_tensor_v2`.
    Global {
        /// The module, a [`Node::Text`].
        module: Id,
        /// The name in it, a [`Node::Text`].
        name: Id,
    },
    /// What the writer keeps outside the pickle; for PyTorch a storage.
    Persistent(Id),
    /// What calling `callable` would have given.
    Object {
        /// What would be called.
        callable: Id,
        /// With what.
        args: Id,
        /// What the object would be told about itself then (`__setstate__`).
        state: Option<Id>,
        /// Entries it would be given like a `dict`.
        entries: Vec<(Id, Id)>,
        /// Items it would be given like a `list`.
        items: Vec<Id>,
    },
}

/// A pickle that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

/// Reads one pickle from the beginning of `bytes`; returns it and how many bytes it took.
///
/// # Errors
/// When it is cut short, or is none.
pub fn read(bytes: &[u8]) -> Result<(Pickle, usize), FormatError> {
    machine::run(bytes)
}

impl Pickle {
    /// The value that was pickled.
    pub fn root(&self) -> Id {
        self.root
    }

    /// The places of all values, in the order of the pickle.
    pub fn ids(&self) -> impl Iterator<Item = Id> {
        (0..self.nodes.len()).map(|i| Id(i as u32))
    }

    /// The value at a place.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// A string.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An integer that is not negative.
    pub fn size(&self, id: Id) -> Option<usize> {
        match self.node(id) {
            Node::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The items of a tuple or list.
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// Integers that are not negative, in a tuple or list.
    pub fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.items(id)?.iter().map(|&n| self.size(n)).collect()
    }

    /// Module and name of a global.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Global { module, name } => Some((self.text(*module)?, self.text(*name)?)),
            _ => None,
        }
    }

    /// Module and name of what would have been called, and with what.
    pub fn call(&self, id: Id) -> Option<((&str, &str), &[Id])> {
        match self.node(id) {
            Node::Object { callable, args, .. } => Some((self.global(*callable)?, self.items(*args)?)),
            _ => None,
        }
    }

    /// The entries of a `dict`, or of an object that is one: `collections.OrderedDict` (Python 2 gives it a list of pairs)
    /// and `defaultdict`.
    pub fn entries(&self, id: Id) -> Option<Cow<'_, [(Id, Id)]>> {
        let given = match self.node(id) {
            Node::Dict(entries) => return Some(Cow::Borrowed(entries)),
            Node::Object { entries, .. } => entries,
            _ => return None,
        };
        match self.call(id)? {
            (("collections", "OrderedDict"), [pairs]) => {
                let pair = |id: &Id| match self.items(*id)? {
                    [key, value] => Some((*key, *value)),
                    _ => None,
                };
                let pairs: Option<Vec<_>> = self.items(*pairs)?.iter().map(pair).collect();
                Some(Cow::Owned(pairs?.into_iter().chain(given.iter().copied()).collect()))
            }
            (("collections", "OrderedDict" | "defaultdict"), _) => Some(Cow::Borrowed(given)),
            _ => None,
        }
    }

    /// The value under a key that is a string.
    pub fn get(&self, id: Id, key: &str) -> Option<Id> {
        self.entries(id)?.iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|(_, v)| *v)
    }

    /// The entries of a dict under keys that are text; of equal keys the last. An entry that is only recalled costs no time
    /// in the length of its key.
    pub fn by_name(&self, dict: Id) -> BTreeMap<&str, Id> {
        let mut last: HashMap<Id, (usize, Id)> = HashMap::new();
        for (i, &(key, value)) in self.entries(dict).unwrap_or_default().iter().enumerate() {
            last.insert(key, (i, value));
        }
        let mut ordered: Vec<(usize, Id, Id)> =
            last.into_iter().map(|(key, (i, value))| (i, key, value)).collect();
        ordered.sort_unstable_by_key(|(i, ..)| *i);
        ordered.into_iter().filter_map(|(_, key, value)| Some((self.text(key)?, value))).collect()
    }

    /// What a value is, in a word or two, for messages.
    pub fn kind(&self, id: Id) -> String {
        match self.node(id) {
            Node::None => "None".into(),
            Node::Bool(_) => "a bool".into(),
            Node::Int(_) | Node::Long(_) => "an int".into(),
            Node::Float(_) => "a float".into(),
            Node::Text(_) => "a str".into(),
            Node::Bytes(_) => "bytes".into(),
            Node::Tuple(_) => "a tuple".into(),
            Node::List(_) => "a list".into(),
            Node::Dict(_) => "a dict".into(),
            Node::Global { .. } => self.full_name(id),
            Node::Persistent(_) => "a storage".into(),
            Node::Object { callable, .. } => match self.global(*callable) {
                Some(_) => format!("an object of {}", self.full_name(*callable)),
                None => "an object".into(),
            },
        }
    }

    fn full_name(&self, id: Id) -> String {
        let (module, name) = self.global(id).unwrap_or_default();
        format!("{}.{}", short(module), short(name))
    }
}

/// The beginning of a text of a file, for messages.
pub(crate) fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(80) {
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests;
