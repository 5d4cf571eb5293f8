//! The files that make one checkpoint of Paddle's, and what is in them.

use crate::import::{Findings, ImportError};
use octrain_formats::paddle::{self, Program, StateDict};
use octrain_formats::{FormatError, Tensor};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a file is, by the end of its name, which is how Paddle tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Program,
    Streams,
    Params,
    Optimizer,
}

impl Kind {
    fn of(path: &Path) -> Option<(Kind, String)> {
        let name = path.file_name()?.to_str()?;
        let ends = [
            (".pdmodel", Kind::Program),
            (".json", Kind::Program),
            (".pdiparams", Kind::Streams),
            (".pdparams", Kind::Params),
            (".pdopt", Kind::Optimizer),
        ];
        let (end, kind) = ends.into_iter().find(|(end, _)| name.ends_with(end))?;
        (end != ".json" || is_pir(path)).then(|| (kind, name[..name.len() - end.len()].to_string()))
    }
}

/// Whether a file in JSON is a program of Paddle 3.
fn is_pir(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_end(&mut head));
    read.is_ok() && paddle::plausible_pir(&head)
}

type Group = BTreeMap<Kind, PathBuf>;

/// The files at `path`: a folder with those of one network, or one of these files, whose companions of the same name are
/// beside it. None where there are none.
///
/// # Errors
/// When a folder holds several networks.
pub(super) fn find(path: &Path) -> Result<Option<Files>, ImportError> {
    let (folder, wanted) = match path.is_dir() {
        true => (path, None),
        false => (path.parent().unwrap_or(Path::new("")), Kind::of(path).map(|(_, stem)| stem)),
    };
    if !path.is_dir() && wanted.is_none() {
        return Ok(None);
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let unread = |source| ImportError::Unread { path: folder.into(), source };
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unread)? {
        let file = entry.map_err(unread)?.path();
        let Some((kind, stem)) = Kind::of(&file) else { continue };
        if file.is_file() && wanted.as_ref().is_none_or(|wanted| *wanted == stem) {
            groups.entry(stem).or_default().insert(kind, file);
        }
    }
    let mut groups = groups.into_iter();
    match (groups.next(), groups.next()) {
        (None, _) => Ok(None),
        (Some((name, files)), None) => Ok(Some(Files { name, files })),
        (Some((first, _)), Some((second, _))) => {
            let names: Vec<String> =
                [first, second].into_iter().chain(groups.map(|(name, _)| name)).collect();
            let why = format!(
                "it holds files of several networks of Paddle's ({}): give one of the files, whose companions are taken with it",
                names.join(", ")
            );
            Err(ImportError::Unknown { path: path.into(), why })
        }
    }
}

/// The files of one checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Files {
    /// What their names have in common.
    pub name: String,
    files: Group,
}

/// Weights, in either of the forms that Paddle has for them.
pub(super) enum Weights {
    /// Without names, in the order of the sorted names of the program's parameters.
    Streams(Vec<Tensor>),
    /// By name.
    Named(StateDict),
}

/// What is in the files.
pub(super) struct Content {
    pub program: Option<Program>,
    pub weights: Weights,
    pub optimizer: Option<StateDict>,
    /// SHA-256 of the files, one behind the other, hexadecimal.
    pub sha256: String,
    /// What was passed over, for people.
    pub note: Option<String>,
}

impl Files {
    /// Reads all of them.
    ///
    /// # Errors
    /// Names every file that is missing or cannot be read.
    pub fn read(&self, path: &Path) -> Result<Content, ImportError> {
        let incomplete = |findings: Vec<String>| ImportError::Incomplete {
            path: path.into(),
            findings: Findings(findings),
        };
        let missing = self.missing();
        if !missing.is_empty() {
            return Err(incomplete(missing));
        }
        let mut bytes = BTreeMap::new();
        for (kind, file) in &self.files {
            let read = fs::read(file).map_err(|source| ImportError::Unread { path: file.clone(), source })?;
            bytes.insert(*kind, read);
        }
        let sha256 = crate::checkpoint::sha256(bytes.values().map(Vec::as_slice));
        let mut findings = Vec::new();
        let program = self.parse(Kind::Program, &bytes, paddle::program, &mut findings);
        let streams = self.parse(Kind::Streams, &bytes, paddle::streams, &mut findings);
        let params = self.parse(Kind::Params, &bytes, paddle::state, &mut findings);
        let optimizer = self.parse(Kind::Optimizer, &bytes, paddle::state, &mut findings);
        let note = (program.is_some() && streams.is_some() && params.is_some()).then(|| {
            let name = &self.name;
            format!("{name}.pdparams is passed over: the weights are those of {name}.pdiparams, which belongs to the program")
        });
        let weights = match (streams, params) {
            (Some(tensors), _) if program.is_some() => Some(Weights::Streams(tensors)),
            (_, Some(state)) => Some(Weights::Named(state)),
            (Some(tensors), None) => Some(Weights::Streams(tensors)),
            (None, None) => None,
        };
        match weights {
            Some(weights) if findings.is_empty() => Ok(Content { program, weights, optimizer, sha256, note }),
            _ => Err(incomplete(findings)),
        }
    }

    fn parse<T>(
        &self,
        kind: Kind,
        bytes: &BTreeMap<Kind, Vec<u8>>,
        read: impl FnOnce(&[u8]) -> Result<T, FormatError>,
        findings: &mut Vec<String>,
    ) -> Option<T> {
        match read(bytes.get(&kind)?) {
            Ok(content) => Some(content),
            Err(e) => {
                let file = self.files.get(&kind).and_then(|file| file.file_name()).unwrap_or_default();
                findings.push(format!("{}: {e}", file.to_string_lossy()));
                None
            }
        }
    }

    /// What a network needs and is not there. Weights of modules tell their network themselves, if they are by name.
    fn missing(&self) -> Vec<String> {
        let has = |kind| self.files.contains_key(&kind);
        let name = &self.name;
        let mut out = Vec::new();
        if !has(Kind::Program) && !has(Kind::Params) {
            out.push(format!(
                "{name}.pdmodel (of Paddle 3: {name}.json) is missing, the program, without which weights have no names"
            ));
        }
        if !has(Kind::Streams) && !has(Kind::Params) {
            out.push(format!("{name}.pdiparams (or {name}.pdparams) is missing, the weights"));
        }
        out
    }
}
