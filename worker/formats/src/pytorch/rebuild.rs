//! Tensors from the constructors that PyTorch pickles them by.

use super::Storages;
use crate::elements::View;
use crate::pickle::{Id, Node, Pickle};
use crate::{Element, FormatError, Tensor};

/// Where most of the constructors are.
const UTILS: &str = "torch._utils";
/// The constructor of tensors with attributes, and of classes derived from them: of function, class, arguments, attributes.
const OF_TYPE: (&str, &str) = ("torch._tensor", "_rebuild_from_type_v2");
/// The classes whose tensors are what they hold.
const CLASSES: [(&str, &str); 3] =
    [("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")];
/// Keys of storages are numbers, in text.
const LONGEST_KEY: usize = 64;
/// Dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;

pub(super) struct Rebuild<'a> {
    pub pickle: &'a Pickle,
    pub storages: &'a Storages<'a>,
    /// Elements that may yet be made.
    pub room: usize,
}

/// A storage as tensors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageRef {
    pub key: String,
    pub element: Element,
}

/// The type of a storage's elements by its class, e.g. `FloatStorage`.
fn element(class: &str) -> Option<Element> {
    Some(match class {
        "DoubleStorage" => Element::F64,
        "FloatStorage" => Element::F32,
        "HalfStorage" => Element::F16,
        "BFloat16Storage" => Element::Bf16,
        "LongStorage" => Element::I64,
        "IntStorage" => Element::I32,
        "ShortStorage" => Element::I16,
        "CharStorage" => Element::I8,
        "ByteStorage" => Element::U8,
        "BoolStorage" => Element::Bool,
        _ => return None,
    })
}

/// `('storage', class, key, location, elements, ...)`.
pub(super) fn storage(pickle: &Pickle, id: Id) -> Result<StorageRef, FormatError> {
    let Node::Persistent(told) = pickle.node(id) else {
        return Err(FormatError::damaged("a tensor has no storage"));
    };
    let parts = pickle.items(*told).unwrap_or_default();
    let [tag, class, key, rest @ ..] = parts else {
        return Err(FormatError::damaged("a storage has no key"));
    };
    if pickle.text(*tag) != Some("storage") {
        return Err(FormatError::damaged("what is kept outside the pickle is no storage"));
    }
    let Some(element) = pickle.global(*class).and_then(|(_, class)| element(class)) else {
        let found = format!("of {}, which is none that weights are kept in", pickle.kind(*class));
        return Err(FormatError::Foreign { wanted: "a tensor of numbers", found });
    };
    // Location, number of elements, and in old files what part of another storage it is, which nobody writes any more.
    if rest.get(2).is_some_and(|view| *pickle.node(*view) != Node::None) {
        let found =
            "in a storage that is a part of another one; write the file anew with a later PyTorch".into();
        return Err(FormatError::Foreign { wanted: "a tensor with a storage", found });
    }
    let key = match pickle.node(*key) {
        Node::Int(n) => n.to_string(),
        Node::Text(key) if key.len() <= LONGEST_KEY => key.clone(),
        _ => return Err(FormatError::damaged("a storage's key is no string of a number's length")),
    };
    Ok(StorageRef { key, element })
}

impl Rebuild<'_> {
    /// Whether a value is made by a constructor of tensors or parameters.
    pub fn is_tensor(&self, id: Id) -> bool {
        self.pickle.call(id).is_some_and(|(callable, _)| {
            callable == OF_TYPE || callable.0 == UTILS && callable.1.starts_with("_rebuild_")
        })
    }

    /// The tensor that a value is; none where it is none.
    pub fn tensor(&mut self, id: Id) -> Result<Option<Tensor>, FormatError> {
        if !self.is_tensor(id) {
            return Ok(None);
        }
        let mut made = self.pickle.call(id);
        // A parameter holds a tensor; one with attributes of its own says how it is made without them.
        for _ in 0..3 {
            let Some((callable, args)) = made else { break };
            match (callable, args) {
                ((UTILS, "_rebuild_parameter" | "_rebuild_parameter_with_state"), [data, ..]) => {
                    made = self.pickle.call(*data);
                }
                (OF_TYPE, [function, class, args, ..]) => {
                    if !CLASSES.iter().any(|known| self.pickle.global(*class) == Some(*known)) {
                        let found = format!(
                            "of a class of its own ({}): write it as a plain tensor",
                            self.pickle.kind(*class)
                        );
                        return Err(FormatError::Foreign { wanted: "a tensor of PyTorch's", found });
                    }
                    made = self.pickle.global(*function).zip(self.pickle.items(*args));
                }
                (
                    (UTILS, "_rebuild_tensor" | "_rebuild_tensor_v2"),
                    [from, offset, shape, strides, rest @ ..],
                ) => {
                    // Whether a gradient is wanted, hooks, and marks of what PyTorch has not computed yet.
                    let marks = rest.get(2).and_then(|marks| self.pickle.entries(*marks));
                    if marks.is_some_and(|marks| !marks.is_empty()) {
                        let found = "a view that is negated or conjugated when it is used; write tensor.resolve_neg().resolve_conj()";
                        return Err(FormatError::Foreign {
                            wanted: "a tensor of numbers",
                            found: found.into(),
                        });
                    }
                    return self.view(*from, [*offset, *shape, *strides]).map(Some);
                }
                _ => {
                    let found = format!(
                        "{}, which is not read: weights are dense tensors of floating point, of 16 bits or more",
                        self.pickle.kind(id)
                    );
                    return Err(FormatError::Foreign { wanted: "a dense tensor", found });
                }
            }
        }
        Err(FormatError::damaged("what a tensor is made of is none"))
    }

    fn view(&mut self, from: Id, [offset, shape, strides]: [Id; 3]) -> Result<Tensor, FormatError> {
        let pickle = self.pickle;
        let from = storage(pickle, from)?;
        if [shape, strides].iter().any(|id| pickle.items(*id).is_none_or(|all| all.len() > MOST_DIMENSIONS)) {
            return Err(FormatError::damaged("a tensor's shape or strides are no few numbers"));
        }
        let parts = (pickle.size(offset), pickle.sizes(shape), pickle.sizes(strides));
        let (Some(offset), Some(shape), Some(strides)) = parts else {
            return Err(FormatError::damaged("a tensor's offset, shape or strides are no numbers"));
        };
        let held = self.storages.get(&from.key);
        let held = held.ok_or_else(|| FormatError::damaged(format!("storage {} is missing", from.key)))?;
        Tensor::gather(from.element, held, &View { offset, shape, strides }, &mut self.room)
    }
}
