//! Saving, finding and loading checkpoint folders.
//!
//! `ROOT/<epochs completed>/` at the end of an epoch, `ROOT/<epochs completed>-<steps>/` within one. A folder is
//! written under a hidden name, its manifest last, and renamed when everything in it is synced.

use super::atomic::{put, sync_folder, write_synced};
use super::manifest::{FileEntry, Manifest, Position};
use super::{CheckpointError, Origin, StartedFrom, State, foreign, network, not_finite, stored, tensors};
use crate::config::CheckpointChoice;
use crate::graph::Graph;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The network before any pass.
pub(super) const GRAPH: &str = "graph.json";
/// Parameters, statistics and ranges.
const MODEL: &str = "model.safetensors";
/// The weights that training goes on with, where those of [`MODEL`] are their average.
pub(super) const UNAVERAGED: &str = "unaveraged.safetensors";
/// Momentum.
const OPTIMIZER: &str = "optimizer.safetensors";
/// Everything else; written last.
pub(super) const MANIFEST: &str = "manifest.json";

/// A checkpoint in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Everything but graph and tensors; `files` and `run` are filled in when it is saved.
    pub manifest: Manifest,
    /// The network before any pass.
    pub graph: Graph,
    /// Parameters, running statistics, ranges: what the network is, whoever runs it.
    pub model: State,
    /// Those that training goes on with, where `model` is their average.
    pub unaveraged: Option<State>,
    /// `momentum.<parameter>`.
    pub optimizer: State,
}

/// Which checkpoint of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that is furthest.
    Auto,
    /// The one at the end of this many epochs.
    Epoch(u32),
    /// The one whose evaluation found the highest top-1; of equals, the first.
    Best,
}

impl From<Option<CheckpointChoice>> for Which {
    /// The checkpoint that a choice of a run's settings means: the furthest where nothing is said.
    fn from(choice: Option<CheckpointChoice>) -> Self {
        match choice {
            None | Some(CheckpointChoice::Auto | CheckpointChoice::StartOver) => Which::Auto,
            Some(CheckpointChoice::Best) => Which::Best,
            Some(CheckpointChoice::Epoch(epoch)) => Which::Epoch(epoch),
        }
    }
}

/// Top-1 in percent that a checkpoint was evaluated with; none where it was not.
pub(super) fn top1(manifest: &Manifest) -> Option<f64> {
    manifest.metrics.get("val.top1").copied()
}

/// The first of the checkpoints with the highest top-1; none where none was evaluated.
fn best(all: &[(Progress, PathBuf)]) -> Result<Option<&(Progress, PathBuf)>, CheckpointError> {
    let mut best: Option<(f64, &(Progress, PathBuf))> = None;
    for one in all {
        let Some(top1) = top1(&load_manifest(&one.1)?) else { continue };
        if best.is_none_or(|(highest, _)| top1 > highest) {
            best = Some((top1, one));
        }
    }
    Ok(best.map(|(_, one)| one))
}

/// How far a checkpoint is: epochs, and steps of the next one.
pub(super) type Progress = (u32, u64);

/// Progress by a folder's name; none for other folders.
pub(super) fn parse_name(name: &str) -> Option<Progress> {
    match name.split_once('-') {
        None => Some((name.parse().ok()?, 0)),
        Some((epoch, step)) => Some((epoch.parse().ok()?, step.parse().ok()?)),
    }
}

/// Complete checkpoints below a folder, with their positions.
pub(super) fn list(root: &Path) -> Result<Vec<(Progress, PathBuf)>, CheckpointError> {
    let entries = fs::read_dir(root).map_err(CheckpointError::io("list", root))?;
    Ok(entries
        .filter_map(Result::ok)
        .filter_map(|e| Some((parse_name(e.file_name().to_str()?)?, e.path())))
        .filter(|(_, path)| path.join(MANIFEST).is_file())
        .collect())
}

pub(super) fn hex_digest(bytes: &[u8]) -> String {
    sha256([bytes])
}

/// SHA-256 of parts of bytes, one behind the other, hexadecimal.
pub(crate) fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Saves atomically below `root` and returns the folder; whose folder it is, is not asked (see [`super::RunFolder`]). On
/// error nothing that was there is lost.
///
/// # Errors
/// When it cannot be written, or when what it says does not fit together, so that nobody could load it.
pub fn save(root: &Path, snapshot: &Snapshot) -> Result<PathBuf, CheckpointError> {
    save_while(root, snapshot, &|| true)
}

/// [`save`], for a writer that may be given up meanwhile: `still` is asked once all is written, before it appears.
pub(super) fn save_while(
    root: &Path,
    snapshot: &Snapshot,
    still: &dyn Fn() -> bool,
) -> Result<PathBuf, CheckpointError> {
    fs::create_dir_all(root).map_err(CheckpointError::io("make the folder", root))?;
    let name = snapshot.manifest.position.folder_name();
    let partial = root.join(format!(".{name}.{}", std::process::id()));
    let target = root.join(&name);
    check(&target, snapshot)?;
    let given_up = || CheckpointError::GivenUp { path: target.clone() };
    let written = fill(&partial, snapshot)
        .and_then(|()| still().then_some(()).ok_or_else(given_up))
        .and_then(|()| put(root, &partial, &target));
    if let Err(e) = written {
        let _ = fs::remove_dir_all(&partial);
        return Err(e);
    }
    Ok(target)
}

/// Whether manifest, graph and weights are of one network.
fn check(target: &Path, snapshot: &Snapshot) -> Result<(), CheckpointError> {
    let Snapshot { manifest, graph, model, unaveraged, .. } = snapshot;
    let malformed = graph.verify().err().map(|e| e.to_string());
    match malformed.or_else(|| network::misfit(graph, manifest)) {
        Some(why) => Err(CheckpointError::Graph { path: target.join(GRAPH), why }),
        None => std::iter::once(model).chain(unaveraged).try_for_each(|w| network::fits(target, graph, w)),
    }
}

fn fill(partial: &Path, snapshot: &Snapshot) -> Result<(), CheckpointError> {
    fs::create_dir_all(partial).map_err(CheckpointError::io("make the folder", partial))?;
    let mut manifest = snapshot.manifest.clone();
    let encoded = |name: &'static str, state| Ok((name, tensors::encode(state, &partial.join(name))?));
    let mut contents = vec![
        (GRAPH, network::encode(&snapshot.graph, &partial.join(GRAPH))?),
        encoded(MODEL, &snapshot.model)?,
        encoded(OPTIMIZER, &snapshot.optimizer)?,
    ];
    contents.extend(snapshot.unaveraged.as_ref().map(|w| encoded(UNAVERAGED, w)).transpose()?);
    manifest.files.clear();
    for (name, bytes) in contents {
        write_synced(&partial.join(name), &bytes)?;
        manifest.files.push(FileEntry {
            name: name.into(),
            bytes: bytes.len() as u64,
            sha256: hex_digest(&bytes),
        });
    }
    let path = partial.join(MANIFEST);
    write_synced(&path, &stored::write(&path, &manifest)?)?;
    sync_folder(partial)
}

/// A checkpoint itself, where it is the one that is wanted.
fn only(path: &Path, which: Which) -> Result<PathBuf, CheckpointError> {
    let Which::Epoch(wanted) = which else { return Ok(path.into()) };
    let Position { epoch, step_in_epoch, .. } = load_manifest(path)?.position;
    if (epoch, step_in_epoch) == (wanted, 0) {
        return Ok(path.into());
    }
    let why = format!(
        "it is a checkpoint itself, at epoch {epoch} and step {step_in_epoch}, not at the end of epoch {wanted}; give the folder it lies in to choose among those there"
    );
    Err(CheckpointError::NotFound { path: path.into(), why })
}

/// The checkpoint folder meant by `path`: itself, or one below it.
pub fn find(path: &Path, which: Which) -> Result<PathBuf, CheckpointError> {
    let missing = |why: String| CheckpointError::NotFound { path: path.into(), why };
    if path.join(MANIFEST).is_file() {
        return only(path, which);
    }
    if path.is_file() {
        let why = "it is a file, and a checkpoint is a folder; weights alone, in a safetensors file, are something to start from".into();
        return Err(CheckpointError::Foreign { path: path.into(), wanted: "a checkpoint", why });
    }
    if !path.is_dir() {
        return Err(missing("there is no such folder".into()));
    }
    let mut all = list(path)?;
    all.sort();
    let found = match which {
        Which::Auto => all.last(),
        Which::Best => best(&all)?,
        Which::Epoch(epoch) => all.iter().find(|(p, _)| *p == (epoch, 0)),
    };
    found.map(|(_, path)| path.clone()).ok_or_else(|| {
        let have: Vec<String> =
            all.iter().filter_map(|(_, p)| Some(p.file_name()?.to_str()?.into())).collect();
        missing(match have.is_empty() {
            true => "it holds no complete checkpoint (a folder with manifest.json)".into(),
            false if which == Which::Best => format!(
                "none of its checkpoints ({}) was evaluated, so none is known to be the best; give `auto` or a number of epochs",
                have.join(", ")
            ),
            false => format!("it holds no such epoch, only {}", have.join(", ")),
        })
    })
}

/// Reads the manifest of a checkpoint folder.
pub fn load_manifest(folder: &Path) -> Result<Manifest, CheckpointError> {
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(CheckpointError::io("read", &path))?;
    stored::read(&path, &text)
}

/// The folder a checkpoint folder lies in; `path` itself where it is not a checkpoint but a folder of some.
pub fn root_of(path: &Path) -> PathBuf {
    if !path.join(MANIFEST).is_file() {
        return path.into();
    }
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) if path.file_name().is_some() => parent.into(),
        _ => path.join(".."),
    }
}

/// SHA-256 of a checkpoint's manifest, and so of all it lists.
pub fn manifest_hash(folder: &Path) -> Result<String, CheckpointError> {
    let path = folder.join(MANIFEST);
    Ok(hex_digest(&fs::read(&path).map_err(CheckpointError::io("read", &path))?))
}

/// SHA-256 of a checkpoint's weights, as its manifest has it.
pub(super) fn model_hash(manifest: &Manifest) -> Option<&str> {
    manifest.files.iter().find(|f| f.name == MODEL).map(|f| f.sha256.as_str())
}

/// The bytes of a file of a checkpoint, their number and hash checked.
pub(super) fn read_file(folder: &Path, manifest: &Manifest, name: &str) -> Result<Vec<u8>, CheckpointError> {
    let path = folder.join(name);
    let entry = manifest.files.iter().find(|f| f.name == name);
    let entry = entry.ok_or_else(|| CheckpointError::damaged(&path, "the manifest does not list it"))?;
    let bytes = fs::read(&path).map_err(CheckpointError::io("read", &path))?;
    if bytes.len() as u64 != entry.bytes {
        let why = format!("it has {} bytes, {} were written", bytes.len(), entry.bytes);
        return Err(CheckpointError::damaged(&path, why));
    }
    if hex_digest(&bytes) != entry.sha256 {
        return Err(CheckpointError::damaged(&path, "its SHA-256 is not the one written"));
    }
    Ok(bytes)
}

/// One tensor file of a checkpoint, checked.
fn load_file(folder: &Path, manifest: &Manifest, name: &str) -> Result<State, CheckpointError> {
    tensors::decode(&read_file(folder, manifest, name)?, &folder.join(name))
}

/// What is the matter with a checkpoint's files, which are read for it; none where they are what was written, or cannot be
/// judged by this version.
pub(super) fn damage(folder: &Path) -> Option<String> {
    let checked = load_manifest(folder).and_then(|manifest| {
        // A checkpoint of the first release has no graph.
        let besides = [GRAPH, UNAVERAGED].into_iter().filter(|name| manifest.lists(name));
        let mut wanted = [MODEL, OPTIMIZER].into_iter().chain(besides);
        wanted.try_for_each(|name| read_file(folder, &manifest, name).map(drop))
    });
    match checked {
        Err(CheckpointError::Damaged { path, why }) => {
            Some(format!("{}: {why}", path.file_name().unwrap_or_default().to_string_lossy()))
        }
        Err(CheckpointError::Io { source, path, .. }) if source.kind() == ErrorKind::NotFound => {
            Some(format!("{} is not there", path.file_name().unwrap_or_default().to_string_lossy()))
        }
        _ => None,
    }
}

/// The furthest checkpoint below a folder whose files are whole, and those beyond it, furthest first, with what is the
/// matter with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Furthest {
    /// The checkpoint; none where none is whole.
    pub whole: Option<PathBuf>,
    /// Damaged ones beyond it.
    pub damaged: Vec<(PathBuf, String)>,
}

/// Looks for it, reading files until one is found.
pub fn furthest(root: &Path) -> Result<Furthest, CheckpointError> {
    let mut all = list(root)?;
    all.sort();
    let mut damaged = Vec::new();
    for (_, path) in all.into_iter().rev() {
        match damage(&path) {
            None => return Ok(Furthest { whole: Some(path), damaged }),
            Some(why) => damaged.push((path, why)),
        }
    }
    Ok(Furthest { whole: None, damaged })
}

/// Loads a checkpoint folder. Sizes and hashes are checked, and that manifest, graph and weights are of one network.
pub fn load(folder: &Path) -> Result<Snapshot, CheckpointError> {
    let manifest = load_manifest(folder)?;
    let graph = network::load_graph(folder, &manifest)?;
    let model = load_file(folder, &manifest, MODEL)?;
    network::fits(folder, &graph, &model)?;
    let averages = manifest.lists(UNAVERAGED);
    let unaveraged = averages.then(|| load_file(folder, &manifest, UNAVERAGED)).transpose()?;
    unaveraged.iter().try_for_each(|weights| network::fits(folder, &graph, weights))?;
    let optimizer = load_file(folder, &manifest, OPTIMIZER)?;
    Ok(Snapshot { manifest, graph, model, unaveraged, optimizer })
}

/// Weights of a checkpoint folder, of the furthest one below a folder, or of a file: safetensors, or what `torch.save`
/// wrote.
pub fn load_weights(path: &Path) -> Result<State, CheckpointError> {
    Ok(pretrained(path)?.state)
}

/// Weights that were trained elsewhere.
#[derive(Debug)]
pub struct Pretrained {
    /// The weights, with statistics and ranges where there are any.
    pub state: State,
    /// What a training begins with that begins with them.
    pub from: StartedFrom,
    /// Folder and manifest of the checkpoint they are of; a file of weights says nothing of its network.
    pub checkpoint: Option<(PathBuf, Manifest)>,
}

/// [`load_weights`], with what is known of them.
///
/// # Errors
/// When they cannot be read, or a file of somebody's has numbers that are not finite.
pub fn pretrained(path: &Path) -> Result<Pretrained, CheckpointError> {
    let shown = |path: &Path| path.display().to_string();
    if path.is_file() {
        let bytes = fs::read(path).map_err(CheckpointError::io("read", path))?;
        let from = StartedFrom::of_file(path, &bytes);
        let state = foreign::weights(&bytes, path)?;
        let tensors = not_finite(&state);
        if !tensors.is_empty() {
            return Err(CheckpointError::NotFinite { path: path.into(), tensors });
        }
        return Ok(Pretrained { state, from, checkpoint: None });
    }
    let folder = find(path, Which::Auto)?;
    let manifest = load_manifest(&folder)?;
    let from = StartedFrom::Checkpoint { path: shown(&folder), origin: Origin::of(&folder, &manifest) };
    let state = load_file(&folder, &manifest, MODEL)?;
    Ok(Pretrained { state, from, checkpoint: Some((folder, manifest)) })
}

#[cfg(test)]
mod tests {
    use super::super::testing::snapshot;
    use super::*;
    use CheckpointChoice::{Best, Epoch, StartOver};

    #[test]
    fn what_was_saved_is_found_and_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (epoch, step) in [(1, 0), (2, 0), (10, 0), (10, 3), (10, 4)] {
            let path = save(root, &snapshot(epoch, step)).unwrap();
            let mut back = load(&path).unwrap();
            assert_eq!(back.manifest.files.len(), 3);
            back.manifest.files.clear();
            assert_eq!(back, snapshot(epoch, step));
        }
        assert_eq!(find(root, Which::Auto).unwrap(), root.join("10-4"));
        assert_eq!(root_of(&root.join("10-4")), root);
        assert_eq!(root_of(root), root);
        save(root, &snapshot(11, 0)).unwrap();
        assert_eq!(find(root, Which::Epoch(2)).unwrap(), root.join("2"));
        assert_eq!(find(&root.join("2"), Which::Auto).unwrap(), root.join("2"));
        let e = find(root, Which::Epoch(7)).unwrap_err().to_string();
        assert!(e.contains("only 1, 2, 10, 10-3, 10-4, 11"), "{e}");
        assert_eq!(load_weights(root).unwrap(), snapshot(11, 0).model);
        assert_eq!(fs::read_dir(root).unwrap().count(), 6, "nothing temporary is left");
    }

    #[test]
    fn the_best_is_the_first_with_the_highest_top1() {
        let dir = tempfile::tempdir().unwrap();
        for (epoch, top1) in [(1, Some(50.0)), (2, Some(80.0)), (3, Some(80.0)), (4, None), (9, Some(70.0))] {
            let mut one = snapshot(epoch, 0);
            one.manifest.metrics = top1.map(|t| ("val.top1".to_string(), t)).into_iter().collect();
            save(dir.path(), &one).unwrap();
        }
        assert_eq!(find(dir.path(), Which::Best).unwrap(), dir.path().join("2"));
        let other = tempfile::tempdir().unwrap();
        let mut one = snapshot(1, 0);
        one.manifest.metrics.clear();
        save(other.path(), &one).unwrap();
        assert!(find(other.path(), Which::Best).unwrap_err().to_string().contains("was evaluated"));
        assert_eq!(
            [None, Some(StartOver), Some(Best), Some(Epoch(7))].map(Which::from),
            [Which::Auto, Which::Auto, Which::Best, Which::Epoch(7)]
        );
    }

    #[test]
    fn saving_again_replaces() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &snapshot(1, 0)).unwrap();
        let mut other = snapshot(1, 0);
        other.manifest.world_size = 4;
        let path = save(dir.path(), &other).unwrap();
        assert_eq!(load_manifest(&path).unwrap().world_size, 4);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = save(dir.path(), &snapshot(1, 0)).unwrap();
        let model = path.join(MODEL);
        let good = fs::read(&model).unwrap();
        fs::write(&model, &good[..good.len() - 1]).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("bytes"));
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&model, &flipped).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("SHA-256"));
        fs::write(&model, &good).unwrap();
        for other in [&b"hello"[..], b"\x89PNG\r\n\x1a\n and so on and so on", &[0; 64]] {
            fs::write(dir.path().join("other"), other).unwrap();
            let e = load_weights(&dir.path().join("other")).unwrap_err();
            assert!(matches!(e, CheckpointError::Foreign { .. }) && e.is_configuration(), "{e}");
            let e = find(&dir.path().join("other"), Which::Auto).unwrap_err().to_string();
            assert!(e.contains("it is a file") && e.contains("something to start from"), "{e}");
        }
        fs::write(dir.path().join("cut"), &good[..good.len() / 2]).unwrap();
        let e = load_weights(&dir.path().join("cut")).unwrap_err();
        assert!(matches!(e, CheckpointError::Broken { .. }) && e.is_configuration(), "{e}");
        fs::write(path.join(MANIFEST), "{\"format\": 99}").unwrap();
        assert!(matches!(load(&path), Err(CheckpointError::Format { found: 99, .. })));
        fs::write(path.join(MANIFEST), "{\"form").unwrap();
        assert!(matches!(load(&path), Err(CheckpointError::Damaged { .. })));
        assert!(
            find(&dir.path().join("nothing"), Which::Auto)
                .unwrap_err()
                .to_string()
                .contains("no such folder")
        );
    }
    #[test]
    fn a_checkpoint_that_is_named_itself_is_the_one_that_is_wanted_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let saved = save(dir.path(), &snapshot(1, 0)).unwrap();
        for which in [Which::Auto, Which::Best, Which::Epoch(1)] {
            assert_eq!(find(&saved, which).unwrap(), saved, "{which:?}");
        }
        let told = find(&saved, Which::Epoch(2)).unwrap_err().to_string();
        assert!(told.contains("at epoch 1") && told.contains("not at the end of epoch 2"), "{told}");
    }

    #[test]
    fn weights_alone_do_not_need_the_network_they_are_of() {
        let dir = tempfile::tempdir().unwrap();
        let saved = save(dir.path(), &snapshot(1, 0)).unwrap();
        fs::write(saved.join(GRAPH), "of another version").unwrap();
        assert_eq!(load_weights(dir.path()).unwrap(), snapshot(1, 0).model);
        assert!(load(&saved).is_err());
    }
}
