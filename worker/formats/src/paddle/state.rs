//! Pickled dicts of arrays: `.pdparams`, `.pdopt`.

use crate::elements::View;
use crate::pickle::{self, Id, Node, Pickle, short};
use crate::{Element, FormatError, Tensor, Tensors};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Names of parameters by those that a network's modules give them.
const STRUCTURED: &str = "StructuredToParameterName@@";
/// What arrays were split, in pickles of protocols 2 and 3.
const SPLIT: &str = "UnpackBigParamInfor@@";
/// Entries named in a message.
const NAMED: usize = 12;
/// Bytes of all names of a network together.
const LONGEST_NAMES: usize = 1 << 24;
/// Dimensions of an array.
const MOST_DIMENSIONS: usize = 16;
/// What makes a type of its letters.
const DTYPE: (&str, &str) = ("numpy", "dtype");

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StateDict {
    /// Arrays by name.
    pub tensors: Tensors,
    /// Names of the program's by those of the modules, in what a network of modules wrote.
    pub structured: BTreeMap<String, String>,
    /// Entries that are no arrays, with what they are.
    pub left_out: Vec<String>,
}

/// Reads a pickled dict of arrays.
///
/// # Errors
/// When it is damaged, or holds something else.
pub fn read(bytes: &[u8]) -> Result<StateDict, FormatError> {
    let (pickle, _) = pickle::read(bytes)?;
    let root = pickle.root();
    if pickle.entries(root).is_none() {
        let found = format!("it holds {}, where arrays by name are expected", pickle.kind(root));
        return Err(FormatError::Foreign { wanted: "a state dict of Paddle's", found });
    }
    let mut arrays = Arrays { pickle: &pickle, room: bytes.len() };
    let mut out = StateDict::default();
    let mut left_out = 0;
    let mut split = None;
    for (name, value) in pickle.by_name(root) {
        match name {
            STRUCTURED => out.structured = texts(&pickle, value)?,
            SPLIT => split = Some(value),
            _ => match arrays.array(value).map_err(|e| e.within(&format!("`{}`", short(name))))? {
                Some(tensor) => drop(out.tensors.insert(name.into(), tensor)),
                None => {
                    left_out += 1;
                    if left_out <= NAMED {
                        out.left_out.push(format!("{} ({})", short(name), pickle.kind(value)));
                    }
                }
            },
        }
    }
    if left_out > NAMED {
        out.left_out.push(format!("and {} more", left_out - NAMED));
    }
    if let Some(split) = split {
        join(&pickle, split, &mut out.tensors)?;
    }
    if out.tensors.is_empty() {
        let found = format!(
            "it holds no arrays by name, but {}",
            if out.left_out.is_empty() { "nothing".into() } else { out.left_out.join(", ") }
        );
        return Err(FormatError::Foreign { wanted: "a state dict of Paddle's", found });
    }
    Ok(out)
}

/// A dict from text to text, of few megabytes.
fn texts(pickle: &Pickle, id: Id) -> Result<BTreeMap<String, String>, FormatError> {
    if pickle.entries(id).is_none() {
        return Err(FormatError::damaged(format!("`{STRUCTURED}` is no dict")));
    }
    let (mut room, mut out) = (LONGEST_NAMES, BTreeMap::new());
    for (key, value) in pickle.by_name(id) {
        let Some(value) = pickle.text(value) else { continue };
        room = usize::checked_sub(room, key.len() + value.len())
            .ok_or_else(|| FormatError::damaged(format!("`{STRUCTURED}` is far too long")))?;
        out.insert(key.to_string(), value.to_string());
    }
    Ok(out)
}

/// Puts arrays together that were split: `name` of the parts `name@@.0` and so on, each of one dimension.
fn join(pickle: &Pickle, split: Id, tensors: &mut Tensors) -> Result<(), FormatError> {
    let damaged = || FormatError::damaged(format!("`{SPLIT}` does not say how arrays were split"));
    for (key, value) in pickle.entries(split).ok_or_else(damaged)?.iter() {
        let name = pickle.text(*key).ok_or_else(damaged)?;
        let shape = pickle.get(*value, "OriginShape").and_then(|id| pickle.sizes(id)).ok_or_else(damaged)?;
        let parts = pickle.get(*value, "slices").and_then(|id| pickle.items(id)).ok_or_else(damaged)?;
        let (mut whole, mut element) = (Vec::new(), None);
        for part in parts {
            let part = pickle.text(*part).ok_or_else(damaged)?;
            // Each part is taken once, so that nothing grows.
            let part = tensors.remove(part).ok_or_else(|| {
                FormatError::damaged(format!("`{}` of `{}` is missing", short(part), short(name)))
            })?;
            element = Some(part.element);
            whole.extend(part.data);
        }
        let len = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (Some(element), Some(true)) = (element, len.map(|len| len == whole.len())) else {
            return Err(FormatError::damaged(format!("the parts of `{}` are not {shape:?}", short(name))));
        };
        tensors.insert(name.into(), Tensor { element, shape, data: whole });
    }
    Ok(())
}

struct Arrays<'a> {
    pickle: &'a Pickle,
    /// Elements that may yet be made.
    room: usize,
}

/// The type of elements by numpy's letters; Paddle keeps BF16 as whole numbers of 16 bits without a sign.
fn element(name: &str) -> Option<Element> {
    Some(match name.trim_start_matches(['<', '|', '=']) {
        "f8" | "float64" => Element::F64,
        "f4" | "float32" => Element::F32,
        "f2" | "float16" => Element::F16,
        "u2" | "uint16" => Element::Bf16,
        "i8" | "int64" => Element::I64,
        "i4" | "int32" => Element::I32,
        "i2" | "int16" => Element::I16,
        "i1" | "int8" => Element::I8,
        "u1" | "uint8" => Element::U8,
        "b1" | "bool" => Element::Bool,
        _ => return None,
    })
}

impl<'a> Arrays<'a> {
    /// The array that a value is; none where it is none.
    fn array(&mut self, id: Id) -> Result<Option<Tensor>, FormatError> {
        let pickle = self.pickle;
        // A tensor that belongs to no network is paired with its name.
        let pair = match pickle.call(id) {
            Some((("builtins" | "__builtin__", "tuple"), [pair])) => *pair,
            _ => id,
        };
        let id = match pickle.items(pair) {
            Some([name, array]) if pickle.text(*name).is_some() => *array,
            _ => id,
        };
        let made = match pickle.call(id) {
            Some((("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"), _)) => id,
            _ => return Ok(None),
        };
        let Node::Object { state: Some(state), .. } = pickle.node(made) else {
            return Err(FormatError::damaged("an array without content"));
        };
        let Some([_, shape, dtype, columns_first, data]) = pickle.items(*state) else {
            return Err(FormatError::damaged(
                "an array's content is not version, shape, type, order and data",
            ));
        };
        let shape = pickle
            .items(*shape)
            .filter(|all| all.len() <= MOST_DIMENSIONS)
            .and_then(|all| all.iter().map(|n| pickle.size(*n)).collect::<Option<Vec<usize>>>());
        let shape = shape.ok_or_else(|| FormatError::damaged("an array's shape is no few numbers"))?;
        let element = self.dtype(*dtype)?;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let elements = elements.filter(|n| *n <= self.room);
        let elements = elements.ok_or_else(|| FormatError::damaged("arrays are larger than the file"))?;
        let view = match pickle.node(*columns_first) {
            Node::Bool(true) => View::columns_first(shape),
            _ => View::whole(shape),
        };
        let data = self.data(*data, elements * element.bytes())?;
        Tensor::gather(element, &data, &view, &mut self.room).map(Some)
    }

    /// `dtype('f4', False, True)` with the order of bytes in its state.
    fn dtype(&self, id: Id) -> Result<Element, FormatError> {
        let pickle = self.pickle;
        let name = match pickle.call(id) {
            Some((DTYPE, [name, ..])) => pickle.text(*name),
            _ => None,
        };
        let known = name.and_then(element).ok_or_else(|| FormatError::Foreign {
            wanted: "an array of numbers",
            found: format!("of type {}", name.map_or_else(|| pickle.kind(id).into(), short)),
        })?;
        let Node::Object { state, .. } = pickle.node(id) else { return Ok(known) };
        let order = state.and_then(|state| pickle.items(state)).and_then(|all| pickle.text(*all.get(1)?));
        match order {
            Some(">") => Err(FormatError::Foreign {
                wanted: "an array of little-endian numbers",
                found: "big-endian; write it on an ordinary machine".into(),
            }),
            _ => Ok(known),
        }
    }

    /// The bytes of an array: as such, or, in protocol 2, as text whose letters are the bytes. So long as the elements, or
    /// nothing is copied.
    fn data(&self, id: Id, length: usize) -> Result<Cow<'a, [u8]>, FormatError> {
        let pickle = self.pickle;
        let other = || FormatError::damaged(format!("an array's data are not {length} bytes"));
        let encoded = match pickle.call(id) {
            Some((("_codecs", "encode"), [text, ..])) => Some(*text),
            _ => None,
        };
        match pickle.node(encoded.unwrap_or(id)) {
            Node::Bytes(bytes) if bytes.len() == length => Ok(Cow::Borrowed(bytes)),
            Node::Text(text) if (length..=2 * length).contains(&text.len()) => {
                let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                bytes.filter(|bytes| bytes.len() == length).map(Cow::Owned).ok_or_else(other)
            }
            _ => Err(other()),
        }
    }
}
