//! The ZIP archive: one pickle, and a file for each storage.

use super::Storages;
use crate::FormatError;
use crate::pickle::{self, Pickle};
use std::borrow::Cow;
use std::io::{Cursor, Read};
use zip::ZipArchive;

/// Name of the pickle behind the archive's own name.
const PICKLE: &str = "/data.pkl";

pub(super) fn open(bytes: &[u8]) -> Result<(Pickle, Storages<'_>), FormatError> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(FormatError::damaged)?;
    let names: Vec<String> = archive.file_names().map(String::from).collect();
    let prefixes: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(PICKLE)).collect();
    let &[prefix] = &prefixes[..] else {
        let found =
            format!("a ZIP archive with {} of data.pkl; a file of torch.save has one", prefixes.len());
        return Err(FormatError::Foreign { wanted: "a file of torch.save", found });
    };
    let code = format!("{prefix}/code/");
    if names.iter().any(|name| name.starts_with(&code)) {
        let found =
            "a TorchScript program; write its weights: torch.save(model.state_dict(), \"weights.pth\")";
        return Err(FormatError::Foreign { wanted: "a state dict", found: found.into() });
    }
    // Entries of an archive may lie on top of each other: together they are no more than the file.
    let mut room = bytes.len() as u64;
    let mut entry = |name: &str| -> Result<Vec<u8>, FormatError> {
        let told = |e: &dyn std::fmt::Display| FormatError::damaged(format!("{name}: {e}"));
        let file = archive.by_name(name).map_err(|e| told(&e))?;
        let mut held = Vec::new();
        file.take(room).read_to_end(&mut held).map_err(|e| told(&e))?;
        room -= held.len() as u64;
        Ok(held)
    };
    let order = format!("{prefix}/byteorder");
    if names.contains(&order) && entry(&order)? != b"little" {
        let found = "written by a machine of the other byte order; write it anew on this one".into();
        return Err(FormatError::Foreign { wanted: "a little-endian file", found });
    }
    let (read, _) = pickle::read(&entry(&format!("{prefix}{PICKLE}"))?)?;
    let place = format!("{prefix}/data/");
    let mut storages = Storages::new();
    for name in &names {
        if let Some(key) = name.strip_prefix(&place) {
            storages.insert(key.to_string(), Cow::Owned(entry(name)?));
        }
    }
    Ok((read, storages))
}
