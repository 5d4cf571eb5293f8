//! State dicts that `torch.save` wrote: a ZIP archive since PyTorch 1.6, a chain of pickles before.

mod archive;
mod legacy;
mod rebuild;

use crate::pickle::{Id, Pickle, short};
use crate::{FormatError, Tensors};
use rebuild::Rebuild;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Where checkpoints of training scripts keep the weights, most usual first.
const WRAPPERS: [&str; 6] = ["state_dict", "model_state_dict", "model", "net", "module", "params"];
/// What wrappers of a module put before every name: data-parallel training, and torch.compile.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];
/// Entries named in a message.
const NAMED: usize = 12;

/// The bytes of the storages that tensors lie in, by key.
type Storages<'a> = BTreeMap<String, Cow<'a, [u8]>>;

/// The weights of a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StateDict {
    /// Tensors by name, parameters and buffers alike.
    pub tensors: Tensors,
    /// Entries that are no tensors, with what they are.
    pub left_out: Vec<String>,
    /// Where in the file the weights lay, e.g. `model`; none where they are the file's own entries.
    pub under: Option<String>,
}

/// Whether bytes begin as what `torch.save` writes: a ZIP archive, or a pickle of protocol 2 or later.
pub fn plausible(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || matches!(bytes, [0x80, 2..=5, ..])
}

/// Reads a state dict, or a checkpoint that has one inside.
///
/// # Errors
/// When the file is damaged, or holds something else: a whole module, a script, another framework's archive.
pub fn read(bytes: &[u8]) -> Result<StateDict, FormatError> {
    let (pickle, storages) = match bytes.starts_with(b"PK\x03\x04") {
        true => archive::open(bytes)?,
        false => legacy::open(bytes)?,
    };
    // No tensor can be larger than the file, but several may show one storage.
    let mut rebuild = Rebuild { pickle: &pickle, storages: &storages, room: bytes.len() };
    let (dict, under) = find(&pickle, &rebuild)?;
    let mut out = StateDict { under, ..StateDict::default() };
    let mut left_out = 0;
    for (name, value) in pickle.by_name(dict) {
        match rebuild.tensor(value).map_err(|e| e.within(&format!("`{}`", short(name))))? {
            Some(tensor) => drop(out.tensors.insert(name.to_string(), tensor)),
            None if left_out < NAMED => {
                left_out += 1;
                out.left_out.push(format!("{} ({})", short(name), pickle.kind(value)));
            }
            None => left_out += 1,
        }
    }
    if left_out > NAMED {
        out.left_out.push(format!("and {} more", left_out - NAMED));
    }
    // One wrapper may be within the other.
    for prefix in PREFIXES.iter().chain(&PREFIXES) {
        if out.tensors.keys().all(|name| name.starts_with(prefix)) {
            let plain = |(name, tensor): (String, _)| (name[prefix.len()..].to_string(), tensor);
            out.tensors = out.tensors.into_iter().map(plain).collect();
        }
    }
    Ok(out)
}

/// The dict whose entries are tensors.
fn find(pickle: &Pickle, rebuild: &Rebuild) -> Result<(Id, Option<String>), FormatError> {
    let wanted = "a state dict";
    let root = pickle.root();
    let Some(entries) = pickle.entries(root) else {
        let found = format!(
            "it holds {}; write the weights alone: torch.save(model.state_dict(), \"weights.pth\")",
            pickle.kind(root)
        );
        return Err(FormatError::Foreign { wanted, found });
    };
    let holds = |dict: Id| {
        pickle.entries(dict).is_some_and(|all| all.iter().any(|(_, value)| rebuild.is_tensor(*value)))
    };
    // First what is inside: the accuracy beside it may be a tensor as well.
    let inside = WRAPPERS.iter().find_map(|key| Some((pickle.get(root, key).filter(|d| holds(*d))?, key)));
    if let Some((dict, key)) = inside {
        return Ok((dict, Some(key.to_string())));
    }
    if holds(root) {
        return Ok((root, None));
    }
    let keys = entries.iter().filter_map(|(key, _)| pickle.text(*key)).take(NAMED);
    let keys: Vec<_> = keys.map(short).collect();
    let found = format!(
        "it holds no tensors by name, but {}; take the state dict out and write that",
        match keys.is_empty() {
            true => "nothing".to_string(),
            false => format!("entries {}", keys.join(", ")),
        }
    );
    Err(FormatError::Foreign { wanted, found })
}
