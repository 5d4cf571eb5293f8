//! A file of ONNX, and the files beside it that hold its tensors.

use super::network::{Task, Translated, network};
use crate::checkpoint::StartedFrom;
use crate::data::Preprocessing;
use crate::import::{Findings, ImportError, Network, Wanted};
use octrain_formats::onnx::File;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path};

/// Entries of a file that Octrain wrote.
const CLASSES: &str = "octrain.classes";
const PREPROCESSING: &str = "octrain.preprocessing";

/// The network of the file at `path`, and which file that is, with those that hold tensors of it.
pub(in crate::import) fn read(path: &Path, wanted: &Wanted) -> Result<(Network, StartedFrom), ImportError> {
    let bytes = fs::read(path).map_err(|source| ImportError::Unread { path: path.into(), source })?;
    let unknown = |why: String| ImportError::Unknown { path: path.into(), why };
    let file = File::decode(&bytes).map_err(|e| unknown(e.to_string()))?;
    // Why one cannot be read is found at every tensor that lies there.
    let of = |name: String| (name.clone(), neighbour(path, &name));
    let beside: BTreeMap<String, Result<Vec<u8>, String>> = file.beside().into_iter().map(of).collect();
    let others = beside.values().filter_map(|read| read.as_deref().ok());
    let from = StartedFrom::of_files(path, std::iter::once(&bytes[..]).chain(others));
    let model = file.read(&beside);
    let stem = path.file_stem().map_or_else(|| "Network".into(), |stem| stem.to_string_lossy().into_owned());
    let name = wanted.network.clone().unwrap_or(stem);
    let translated = network(&model, &name, wanted.image_shape, Task::Classifier);
    let Translated { graph, state, notes } =
        translated.map_err(|found| ImportError::Untaken { path: path.into(), findings: Findings(found) })?;
    let preprocessing = model.metadata.get(PREPROCESSING).map(|text| Preprocessing::read(text)).transpose();
    let class_names = model.metadata.get(CLASSES).map(|text| serde_json::from_str(text)).transpose();
    let network = Network {
        class_names: class_names.map_err(|e| unknown(format!("its classes cannot be read: {e}")))?,
        preprocessing: preprocessing
            .map_err(|e| unknown(format!("its preprocessing cannot be read: {e}")))?,
        notes,
        ..Network::new(graph, state)
    };
    Ok((network, from))
}

/// The bytes of a file in the same folder, which must be a plain one there: a path of a file leads nowhere else.
///
/// # Errors
/// Why it is not read, and what to do, as a clause about the file.
fn neighbour(path: &Path, name: &str) -> Result<Vec<u8>, String> {
    let name = Path::new(name);
    let mut parts = name.components();
    let (Some(Component::Normal(_)), None) = (parts.next(), parts.next()) else {
        return Err("which is not in the folder of the ONNX file, and only those are read; onnx.load and onnx.save_model(..., save_as_external_data=True) write them there".into());
    };
    let place = path.parent().unwrap_or(Path::new("")).join(name);
    match fs::symlink_metadata(&place) {
        Ok(found) if found.is_symlink() => {
            Err("which is a link, and links are not followed; copy the file itself there".into())
        }
        Ok(found) if found.is_file() => fs::read(place).map_err(|e| format!("which cannot be read: {e}")),
        Ok(_) => Err("which is no file".into()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err("which is missing; it belongs into the folder of the ONNX file".into())
        }
        Err(e) => Err(format!("which cannot be read: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use octrain_formats::onnx::proto::tensor_proto::{DataLocation, DataType};
    use octrain_formats::onnx::proto::{
        GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, ValueInfoProto,
    };
    use prost::Message;

    /// A network of images `[N,3,4,4]` whose layer's weight lies in `weights`.
    fn network_with(weights: &str) -> Vec<u8> {
        let node =
            |op: &str, inputs: &[&str], output: &str| NodeProto::new(op, output, inputs, output, vec![]);
        let weight = TensorProto {
            data_location: Some(DataLocation::External.into()),
            external_data: vec![StringStringEntryProto::new("location", weights)],
            raw_data: None,
            ..TensorProto::new("w", &[3, 2], DataType::Float, vec![])
        };
        let graph = GraphProto {
            node: vec![
                node("GlobalAveragePool", &["x"], "a"),
                node("Flatten", &["a"], "b"),
                node("Gemm", &["b", "w"], "y"),
            ],
            initializer: vec![weight],
            input: vec![ValueInfoProto::batch("x", &[3, 4, 4])],
            output: vec![ValueInfoProto::batch("y", &[2])],
            ..GraphProto::default()
        };
        ModelProto::new(graph, 17).encode_to_vec()
    }

    #[test]
    fn which_file_it_was_is_told_by_the_files_beside_it_too_and_one_that_is_not_read_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.onnx");
        let write = |weights: &str, first: f32| {
            fs::write(&path, network_with(weights)).unwrap();
            let numbers: [f32; 6] = [first, 2.0, 3.0, 4.0, 5.0, 6.0];
            fs::write(dir.path().join("w.data"), numbers.map(f32::to_le_bytes).concat()).unwrap();
            read(&path, &Wanted::default())
        };
        let (one, other) = (write("w.data", 1.0).unwrap(), write("w.data", 7.0).unwrap());
        let first = |network: &Network| network.model.values().find(|t| t.data.len() == 6).unwrap().data[0];
        assert_eq!((first(&one.0), first(&other.0)), (1.0, 7.0));
        assert_ne!(one.1, other.1);
        assert_eq!(one.1, write("w.data", 1.0).unwrap().1);
        for (place, part) in
            [("sub/w.data", "not in the folder of the ONNX file"), ("none.data", "which is missing")]
        {
            let told = write(place, 1.0).unwrap_err().to_string();
            assert!(told.contains(part) && told.contains(place) && told.contains("`w`"), "{told}");
        }
    }

    #[test]
    fn files_beside_it_are_those_of_its_own_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("nets");
        fs::create_dir(&folder).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::write(folder.join("w.data"), "w").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), folder.join("link")).unwrap();
        let of = |name: &str| neighbour(&folder.join("x.onnx"), name);
        assert_eq!(of("w.data"), Ok(b"w".to_vec()));
        let absolute = dir.path().join("secret").display().to_string();
        fs::create_dir(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/w.data"), "w").unwrap();
        for (outside, why) in [
            ("../secret", "not in the folder"),
            ("./../secret", "not in the folder"),
            (&absolute, "not in the folder"),
            ("sub/w.data", "save_as_external_data"),
            ("", "not in the folder"),
            (".", "not in the folder"),
            ("link", "which is a link"),
            ("sub", "which is no file"),
            ("none", "which is missing"),
        ] {
            let told = of(outside).unwrap_err();
            assert!(told.contains(why), "{outside}: {told}");
        }
    }
}
