//! The stack machine.

use super::{Id, Node, Pickle};
use crate::FormatError;
use std::collections::HashMap;

/// Values of a pickle, on its stack, and in its memo: a third of a gigabyte at most. Weights have thousands.
const MOST: usize = 1 << 22;
/// Bytes of an integer.
const LONGEST_INT: usize = 1024;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

pub(super) fn run(bytes: &[u8]) -> Result<(Pickle, usize), FormatError> {
    let mut m = Machine {
        bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while !m.step()? {
        if [m.nodes.len(), m.stack.len(), m.marks.len(), m.memo.len()].into_iter().any(|n| n > MOST) {
            let found = format!("it holds more than {MOST} values, where weights are few and large");
            return Err(FormatError::Foreign { wanted: "a file of weights", found });
        }
    }
    let root = m.pop()?;
    Ok((Pickle { nodes: m.nodes, root }, m.at))
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| FormatError::damaged("the pickle is cut short"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number(&mut self, n: usize) -> Result<u64, FormatError> {
        Ok(self.take(n)?.iter().rev().fold(0, |sum, &b| sum << 8 | u64::from(b)))
    }

    /// So many bytes as the next `n` bytes say.
    fn counted(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        let length = usize::try_from(self.number(n)?).map_err(FormatError::damaged)?;
        self.take(length)
    }

    fn line(&mut self) -> Result<&'a str, FormatError> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&b| b == b'\n');
        let end = end.ok_or_else(|| FormatError::damaged("the pickle is cut short"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(FormatError::damaged)
    }

    fn text(bytes: &[u8]) -> Result<Node, FormatError> {
        String::from_utf8(bytes.to_vec()).map(Node::Text).map_err(FormatError::damaged)
    }

    /// Gives a value its place.
    fn keep(&mut self, node: Node) -> Id {
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node);
        id
    }

    fn push(&mut self, node: Node) -> Result<(), FormatError> {
        let id = self.keep(node);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, FormatError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(FormatError::damaged("the pickle takes what is not there"));
        }
        self.stack.pop().ok_or_else(|| FormatError::damaged("the pickle takes what is not there"))
    }

    fn top(&self) -> Result<Id, FormatError> {
        self.stack.last().copied().ok_or_else(|| FormatError::damaged("the pickle takes what is not there"))
    }

    /// Everything behind the last mark.
    fn marked(&mut self) -> Result<Vec<Id>, FormatError> {
        let mark = self.marks.pop().ok_or_else(|| FormatError::damaged("the pickle lacks a mark"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn pairs(ids: &[Id]) -> Result<Vec<(Id, Id)>, FormatError> {
        let (pairs, []) = ids.as_chunks::<2>() else {
            return Err(FormatError::damaged("a key of a dict has no value"));
        };
        Ok(pairs.iter().map(|[k, v]| (*k, *v)).collect())
    }

    fn give_entries(&mut self, entries: Vec<(Id, Id)>) -> Result<(), FormatError> {
        let top = self.top()?;
        match &mut self.nodes[top.0 as usize] {
            Node::Dict(own) | Node::Object { entries: own, .. } => {
                own.extend(entries);
                Ok(())
            }
            _ => Err(FormatError::damaged("entries are given to what is no dict")),
        }
    }

    fn give_items(&mut self, items: Vec<Id>) -> Result<(), FormatError> {
        let top = self.top()?;
        match &mut self.nodes[top.0 as usize] {
            Node::List(own) | Node::Object { items: own, .. } => {
                own.extend(items);
                Ok(())
            }
            _ => Err(FormatError::damaged("items are given to what is no list")),
        }
    }

    fn tuple(&mut self, n: usize) -> Result<(), FormatError> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Node::Tuple(items))
    }

    fn call(&mut self, callable: Id, args: Id) -> Result<(), FormatError> {
        self.push(Node::Object { callable, args, state: None, entries: Vec::new(), items: Vec::new() })
    }

    /// Where an opcode keeps in the memo, or recalls from it: on a line, in one byte or four, or the next free place.
    fn key(&mut self, code: u8) -> Result<u64, FormatError> {
        match code {
            b'p' | b'g' => self.line()?.parse().map_err(FormatError::damaged),
            b'q' | b'h' => self.number(1),
            b'r' | b'j' => self.number(4),
            _ => Ok(self.memo.len() as u64),
        }
    }

    fn remember(&mut self, key: u64) -> Result<(), FormatError> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), FormatError> {
        let id = self.memo.get(&key).copied();
        self.stack.push(id.ok_or_else(|| FormatError::damaged("the pickle recalls what it has not kept"))?);
        Ok(())
    }

    fn int(bytes: &[u8]) -> Result<Node, FormatError> {
        if bytes.len() > LONGEST_INT {
            return Err(FormatError::damaged("an integer is too long"));
        }
        if bytes.len() > 8 {
            return Ok(Node::Long(bytes.to_vec()));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let fill = if negative { 0xff } else { 0 };
        let full = std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(fill));
        Ok(Node::Int(i64::from_le_bytes(full)))
    }

    fn decimal(text: &str) -> Result<Node, FormatError> {
        text.trim_end_matches('L').parse().map(Node::Int).map_err(FormatError::damaged)
    }

    /// Does one opcode; true at the end.
    fn step(&mut self) -> Result<bool, FormatError> {
        let code = self.take(1)?[0];
        match code {
            b'.' => return Ok(true),
            // Version and frames say nothing that is needed.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => match self.marks.last() == Some(&self.stack.len()) {
                true => drop(self.marks.pop()),
                false => drop(self.pop()?),
            },
            b'1' => drop(self.marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'I' => {
                let node = match self.line()? {
                    "00" => Node::Bool(false),
                    "01" => Node::Bool(true),
                    text => Self::decimal(text)?,
                };
                self.push(node)?;
            }
            b'L' => {
                let node = Self::decimal(self.line()?)?;
                self.push(node)?;
            }
            b'J' => {
                let n = self.number(4)? as u32;
                self.push(Node::Int(i64::from(n.cast_signed())))?;
            }
            b'K' => self.unsigned(1)?,
            b'M' => self.unsigned(2)?,
            0x8a => {
                let node = Self::int(self.counted(1)?)?;
                self.push(node)?;
            }
            0x8b => {
                let node = Self::int(self.counted(4)?)?;
                self.push(node)?;
            }
            b'F' => {
                let number = self.line()?.parse().map_err(FormatError::damaged)?;
                self.push(Node::Float(number))?;
            }
            b'G' => {
                // The one number that is not little-endian.
                let number = f64::from_bits(self.number(8)?.swap_bytes());
                self.push(Node::Float(number))?;
            }
            b'S' => {
                let node = Self::text(self.line()?.trim_matches(['\'', '"']).as_bytes())?;
                self.push(node)?;
            }
            b'V' => {
                let node = Self::text(self.line()?.as_bytes())?;
                self.push(node)?;
            }
            b'U' | 0x8c => self.string(1)?,
            b'T' | b'X' => self.string(4)?,
            0x8d => self.string(8)?,
            b'C' => self.binary(1)?,
            b'B' => self.binary(4)?,
            0x8e | 0x96 => self.binary(8)?,
            b']' | 0x8f => self.push(Node::List(Vec::new()))?,
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'l' => {
                let items = self.marked()?;
                self.push(Node::List(items))?;
            }
            b't' | 0x91 => {
                let items = self.marked()?;
                self.push(Node::Tuple(items))?;
            }
            b'd' => {
                let items = self.marked()?;
                self.push(Node::Dict(Self::pairs(&items)?))?;
            }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b'a' => {
                let item = self.pop()?;
                self.give_items(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.give_items(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.give_entries(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.give_entries(Self::pairs(&items)?)?;
            }
            b'c' => {
                let module = Self::text(self.line()?.as_bytes())?;
                let module = self.keep(module);
                let name = Self::text(self.line()?.as_bytes())?;
                let name = self.keep(name);
                self.push(Node::Global { module, name })?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let named = |id: Id| matches!(self.nodes[id.0 as usize], Node::Text(_));
                if !named(module) || !named(name) {
                    return Err(FormatError::damaged("a global's name is no string"));
                }
                self.push(Node::Global { module, name })?;
            }
            b'R' | 0x81 => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.call(callable, args)?;
            }
            0x92 => {
                // Arguments by name are those of classes that hold no tensors.
                let (_, args, callable) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callable, args)?;
            }
            b'b' => {
                let told = self.pop()?;
                let top = self.top()?;
                match &mut self.nodes[top.0 as usize] {
                    Node::Object { state, .. } => *state = Some(told),
                    _ => return Err(FormatError::damaged("a state is given to what is no object")),
                }
            }
            b'P' => {
                let node = Self::text(self.line()?.as_bytes())?;
                self.push(node)?;
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            b'p' | b'q' | b'r' | 0x94 => {
                let key = self.key(code)?;
                self.remember(key)?;
            }
            b'g' | b'h' | b'j' => {
                let key = self.key(code)?;
                self.recall(key)?;
            }
            other => {
                return Err(FormatError::damaged(format!(
                    "byte {other:#04x} at {} is no opcode of a pickle that is read here",
                    self.at - 1
                )));
            }
        }
        Ok(false)
    }

    fn unsigned(&mut self, n: usize) -> Result<(), FormatError> {
        let number = self.number(n)?.cast_signed();
        self.push(Node::Int(number))
    }

    /// Text; bytes where it is none: lone surrogates of paths, and Python 2's strings, which are bytes.
    fn string(&mut self, n: usize) -> Result<(), FormatError> {
        let bytes = self.counted(n)?;
        let node = Self::text(bytes).unwrap_or_else(|_| Node::Bytes(bytes.to_vec()));
        self.push(node)
    }

    fn binary(&mut self, n: usize) -> Result<(), FormatError> {
        let node = Node::Bytes(self.counted(n)?.to_vec());
        self.push(node)
    }
}
