//! A file of ONNX, and the files beside it that hold its tensors.

use super::network::{Task, Translated, network};
use crate::data::Preprocessing;
use crate::import::{Findings, ImportError, Network, Wanted};
use octrain_formats::onnx::File;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

/// Entries of a file that Octrain wrote.
const CLASSES: &str = "octrain.classes";
const PREPROCESSING: &str = "octrain.preprocessing";

/// The network of the file at `path`, of which these are the bytes.
pub(in crate::import) fn read(path: &Path, bytes: &[u8], wanted: &Wanted) -> Result<Network, ImportError> {
    let unknown = |why: String| ImportError::Unknown { path: path.into(), why };
    let file = File::decode(bytes).map_err(|e| unknown(e.to_string()))?;
    let mut beside = BTreeMap::new();
    for name in file.beside() {
        // What cannot be read is found at every tensor that lies there.
        if let Some(bytes) = neighbour(path, &name) {
            beside.insert(name, bytes);
        }
    }
    let model = file.read(&beside);
    let stem = path.file_stem().map_or_else(|| "Network".into(), |stem| stem.to_string_lossy().into_owned());
    let name = wanted.network.clone().unwrap_or(stem);
    let translated = network(&model, &name, wanted.image_shape, Task::Classifier);
    let Translated { graph, state, notes } =
        translated.map_err(|found| ImportError::Untaken { path: path.into(), findings: Findings(found) })?;
    let preprocessing = model.metadata.get(PREPROCESSING).map(|text| Preprocessing::read(text)).transpose();
    let class_names = model.metadata.get(CLASSES).map(|text| serde_json::from_str(text)).transpose();
    Ok(Network {
        class_names: class_names.map_err(|e| unknown(format!("its classes cannot be read: {e}")))?,
        preprocessing: preprocessing
            .map_err(|e| unknown(format!("its preprocessing cannot be read: {e}")))?,
        notes,
        ..Network::new(graph, state)
    })
}

/// The bytes of a file in the same folder, which must be a plain one there: a path of a file leads nowhere else.
fn neighbour(path: &Path, name: &str) -> Option<Vec<u8>> {
    let name = Path::new(name);
    let mut parts = name.components();
    let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else { return None };
    let place = path.parent()?.join(name);
    let plain = fs::symlink_metadata(&place).is_ok_and(|found| found.is_file());
    if plain { fs::read(place).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_beside_it_are_those_of_its_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("nets");
        fs::create_dir(&folder).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::write(folder.join("w.data"), "w").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), folder.join("link")).unwrap();
        let of = |name: &str| neighbour(&folder.join("x.onnx"), name);
        assert_eq!(of("w.data"), Some(b"w".to_vec()));
        let absolute = dir.path().join("secret").display().to_string();
        for outside in ["../secret", "./../secret", &absolute, "link", "", ".", "nets", "none"] {
            assert_eq!(of(outside), None, "{outside}");
        }
    }
}
