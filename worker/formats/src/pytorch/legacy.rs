//! The chain of pickles that PyTorch wrote before 1.6, and writes when it is told to: a magic number, the protocol, facts of
//! the machine, the object, the storages' keys; then the storages, each behind its number of elements.

use super::Storages;
use super::rebuild::storage;
use crate::FormatError;
use crate::pickle::{self, Node, Pickle};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

pub(super) fn open(bytes: &[u8]) -> Result<(Pickle, Storages<'_>), FormatError> {
    let mut rest = bytes;
    let mut next = || -> Result<Pickle, FormatError> {
        let (pickle, taken) = pickle::read(rest)?;
        rest = &rest[taken..];
        Ok(pickle)
    };
    let magic = next()?;
    if *magic.node(magic.root()) != Node::Long(MAGIC.to_vec()) {
        let found = format!("a pickle of {}, which torch.save did not write", magic.kind(magic.root()));
        return Err(FormatError::Foreign { wanted: "a file of torch.save", found });
    }
    let protocol = next()?;
    if *protocol.node(protocol.root()) != Node::Int(PROTOCOL) {
        return Err(FormatError::damaged("its protocol is not 1001"));
    }
    let machine = next()?;
    let little = machine.get(machine.root(), "little_endian").map(|id| machine.node(id).clone());
    if little == Some(Node::Bool(false)) {
        let found = "written by a machine of the other byte order; write it anew on this one".into();
        return Err(FormatError::Foreign { wanted: "a little-endian file", found });
    }
    let (object, keys) = (next()?, next()?);
    let mut sizes = BTreeMap::new();
    for id in object.ids() {
        let Node::Persistent(told) = object.node(id) else { continue };
        let tag = object.items(*told).and_then(|parts| object.text(*parts.first()?));
        // A module that was pickled whole keeps its source there, too; it holds no state dict, which is said elsewhere.
        if tag != Some("module") {
            let of = storage(&object, id)?;
            sizes.insert(of.key, of.element.bytes());
        }
    }
    let mut storages = Storages::new();
    for &key in keys.items(keys.root()).unwrap_or_default() {
        let key = match keys.node(key) {
            Node::Text(key) => key.clone(),
            Node::Int(key) => key.to_string(),
            _ => return Err(FormatError::damaged("a storage's key is no string")),
        };
        let Some(size) = sizes.get(&key) else {
            return Err(FormatError::damaged(format!("no tensor lies in storage {key}")));
        };
        let cut = || FormatError::damaged(format!("storage {key} is cut short"));
        let (count, behind) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
        let length = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|n| n.checked_mul(*size));
        let length = length.filter(|&n| n <= behind.len()).ok_or_else(cut)?;
        let (held, behind) = behind.split_at(length);
        rest = behind;
        storages.insert(key, Cow::Borrowed(held));
    }
    Ok((object, storages))
}
