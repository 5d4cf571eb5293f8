//! Which checkpoint something was made from, in one line.

use super::manifest::{Manifest, Position};
use super::store::{model_hash, sha256, top1};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The checkpoint a command took or a file was exported from: what tells it from all others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    /// Name of its folder.
    pub name: String,
    /// The run that wrote it; none before there were identities.
    #[serde(default)]
    pub run: Option<String>,
    /// Where the run stood.
    #[serde(default)]
    pub position: Position,
    /// Top-1 of its last evaluation in percent; none where it was not evaluated.
    #[serde(default)]
    pub top1: Option<f64>,
    /// SHA-256 of its weights, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
}

impl Origin {
    /// Of a checkpoint folder.
    pub fn of(folder: &Path, manifest: &Manifest) -> Self {
        // `.` and the like have no name of their own.
        let name =
            folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into());
        Self {
            name,
            run: manifest.run.as_ref().map(|r| r.id.clone()),
            position: manifest.position,
            top1: top1(manifest),
            sha256: model_hash(manifest).map(str::to_string),
        }
    }

    /// Whether both have the same weights; none where one of them does not tell.
    pub fn same_weights(&self, other: &Origin) -> Option<bool> {
        Some(self.sha256.as_ref()? == other.sha256.as_ref()?)
    }
}

/// What a training began with; whoever goes on with it keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum StartedFrom {
    /// Weights drawn from a seed.
    Seed(u64),
    /// The weights of a checkpoint.
    Checkpoint {
        /// Where it lay.
        path: String,
        /// Which it was.
        origin: Origin,
    },
    /// The weights in a file of somebody's.
    File {
        /// Where it lay.
        path: String,
        /// SHA-256 of its bytes, and of the files beside it that it names, one behind the other; hexadecimal.
        sha256: String,
    },
}

impl StartedFrom {
    /// A file at `path`, of which these are the bytes.
    pub fn of_file(path: &Path, bytes: &[u8]) -> Self {
        Self::of_files(path, [bytes])
    }

    /// What is at `path`, in files of which these are the bytes, one behind the other.
    pub fn of_files<'a>(path: &Path, bytes: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::File { path: path.display().to_string(), sha256: sha256(bytes) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { epoch, step_in_epoch, global_step } = self.position;
        match &self.run {
            Some(run) => write!(f, "run {run}, ")?,
            None => f.write_str("a run without identity, ")?,
        }
        match step_in_epoch {
            0 => write!(f, "epoch {epoch} ({global_step} steps), ")?,
            step => write!(f, "epoch {epoch} and {step} steps ({global_step} steps in all), ")?,
        }
        match self.top1 {
            Some(top1) => write!(f, "val.top1 {top1:.2}"),
            None => f.write_str("not evaluated"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::snapshot;
    use super::*;

    #[test]
    fn one_line_says_run_epoch_and_accuracy() {
        let mut m = snapshot(3, 0).manifest;
        let of = |m: &Manifest| Origin::of(Path::new("runs/a/3"), m);
        assert_eq!(of(&m).to_string(), "a run without identity, epoch 3 (9 steps), val.top1 0.30");
        m.run = Some(super::super::RunIdentity { id: "0123".into(), started_unix: 0, host: "h".into() });
        m.position.step_in_epoch = 4;
        m.metrics.clear();
        assert_eq!(of(&m).to_string(), "run 0123, epoch 3 and 4 steps (9 steps in all), not evaluated");
        assert_eq!(of(&m).name, "3");
    }

    #[test]
    fn what_a_training_began_with_is_written_and_read() {
        let origin = Origin::of(Path::new("runs/a/3"), &snapshot(3, 0).manifest);
        for (start, key) in [
            (StartedFrom::Seed(7), "seed"),
            (StartedFrom::File { path: "w.safetensors".into(), sha256: "ab".into() }, "file"),
            (StartedFrom::Checkpoint { path: "runs/a/3".into(), origin }, "checkpoint"),
        ] {
            let text = serde_json::to_string(&start).unwrap();
            assert!(text.starts_with(&format!("{{\"{key}\":")), "{text}");
            assert_eq!(serde_json::from_str::<StartedFrom>(&text).unwrap(), start);
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_into_a_file_is_read() {
        let old: Origin = serde_json::from_str(r#"{"name": "2", "files": [{"name": "x"}]}"#).unwrap();
        assert_eq!((old.name.as_str(), old.run, old.sha256), ("2", None, None));
    }
}
