//! Tensors from the constructors that PyTorch pickles them by.

use super::Storages;
use crate::elements::View;
use crate::pickle::{Id, Node, Pickle};
use crate::{Element, FormatError, Tensor};

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
    let [tag, class, key, ..] = parts else { return Err(FormatError::damaged("a storage has no key")) };
    if pickle.text(*tag) != Some("storage") {
        return Err(FormatError::damaged("what is kept outside the pickle is no storage"));
    }
    let (module, class) = pickle.global(*class).unwrap_or_default();
    let Some(element) = element(class) else {
        let found = format!("of {module}.{class}, which is none that weights are kept in");
        return Err(FormatError::Foreign { wanted: "a tensor of numbers", found });
    };
    let key = match pickle.node(*key) {
        Node::Int(n) => n.to_string(),
        Node::Text(key) => key.clone(),
        _ => return Err(FormatError::damaged("a storage's key is no string")),
    };
    Ok(StorageRef { key, element })
}

impl Rebuild<'_> {
    /// Whether a value is made by a constructor of tensors or parameters.
    pub fn is_tensor(&self, id: Id) -> bool {
        let call = self.pickle.call(id);
        call.is_some_and(|((module, name), _)| module == "torch._utils" && name.starts_with("_rebuild_"))
    }

    /// The tensor that a value is; none where it is none.
    pub fn tensor(&mut self, id: Id) -> Result<Option<Tensor>, FormatError> {
        let mut id = id;
        // A parameter holds a tensor; nothing holds a parameter.
        for _ in 0..2 {
            let Some((("torch._utils", name), args)) = self.pickle.call(id) else { return Ok(None) };
            match (name, args) {
                ("_rebuild_parameter" | "_rebuild_parameter_with_state", [data, ..]) => id = *data,
                ("_rebuild_tensor" | "_rebuild_tensor_v2", [from, offset, shape, strides, ..]) => {
                    return self.view(*from, [*offset, *shape, *strides]).map(Some);
                }
                _ => {
                    let found = format!("made by torch._utils.{name}: only dense tensors are weights here");
                    return Err(FormatError::Foreign { wanted: "a dense tensor", found });
                }
            }
        }
        Err(FormatError::damaged("a parameter holds a parameter"))
    }

    fn view(&mut self, from: Id, [offset, shape, strides]: [Id; 3]) -> Result<Tensor, FormatError> {
        let pickle = self.pickle;
        let from = storage(pickle, from)?;
        let parts = (pickle.size(offset), pickle.sizes(shape), pickle.sizes(strides));
        let (Some(offset), Some(shape), Some(strides)) = parts else {
            return Err(FormatError::damaged("a tensor's offset, shape or strides are no numbers"));
        };
        let held = self.storages.get(&from.key);
        let held = held.ok_or_else(|| FormatError::damaged(format!("storage {} is missing", from.key)))?;
        Tensor::gather(from.element, held, &View { offset, shape, strides }, &mut self.room)
    }
}
