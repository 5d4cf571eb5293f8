//! `--report-file`: one JSON object a line, appended and flushed, so that a run that is killed leaves all lines
//! but perhaps the last whole.

use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The report cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write --report-file `{path}`: {source}")]
pub struct ReportError {
    path: PathBuf,
    source: io::Error,
}

/// Opens a file that a user has named, the folder it lies in included.
pub(super) fn open(path: &Path, how: &OpenOptions) -> io::Result<File> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    how.open(path)
}

/// Whether the name still leads to the file that is open.
pub(super) fn in_place(file: &File, path: &Path) -> bool {
    let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().ok().zip(std::fs::metadata(path).ok()).is_some_and(|(a, b)| same(a, b))
}

/// A file of JSON lines.
#[derive(Debug)]
pub struct ReportFile {
    path: PathBuf,
    file: File,
}

impl ReportFile {
    /// Opens the file, folders included: emptied for a new run, as it is for one that resumes.
    pub fn open(path: &Path, resume: bool) -> Result<Self, ReportError> {
        let how = OpenOptions::new().create(true).append(resume).write(true).truncate(!resume).clone();
        let file = open(path, &how).map_err(|source| ReportError { path: path.into(), source })?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends one line. A file that was moved or removed meanwhile is begun anew.
    pub fn write(&mut self, line: &Value) -> Result<(), ReportError> {
        if !in_place(&self.file, &self.path) {
            tracing::warn!("--report-file `{}` was moved or removed; it is begun anew", self.path.display());
            *self = Self::open(&self.path, true)?;
        }
        let failed = |source| ReportError { path: self.path.clone(), source };
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_that_is_removed_is_begun_anew_and_one_that_cannot_be_written_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/report.json");
        let mut f = ReportFile::open(&path, false).unwrap();
        f.write(&json!({"step": 1})).unwrap();
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        f.write(&json!({"step": 2})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":2}\n");
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a"), "in the way").unwrap();
        assert!(f.write(&json!({"step": 3})).unwrap_err().to_string().contains("--report-file"));
    }

    #[test]
    fn a_new_run_empties_it_and_a_resumed_one_appends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/report.json");
        ReportFile::open(&path, false).unwrap().write(&json!({"old": 1})).unwrap();
        let mut f = ReportFile::open(&path, false).unwrap();
        f.write(&json!({"train.loss": 0.5})).unwrap();
        drop(f);
        ReportFile::open(&path, true).unwrap().write(&json!({"val.top1": 9.0})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"train.loss\":0.5}\n{\"val.top1\":9.0}\n");
        assert!(ReportFile::open(dir.path(), false).unwrap_err().to_string().contains("--report-file"));
    }
}
