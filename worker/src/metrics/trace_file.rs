//! `--trace-file`: opened when a run begins, so that one that cannot be written is known before anything is trained, and
//! written when the run ends.

use super::report::{in_place, open};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

/// The trace cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write --trace-file `{path}`: {source}")]
pub struct TraceError {
    path: PathBuf,
    source: io::Error,
}

/// A file whose content is replaced once; until then it is what it was.
#[derive(Debug)]
pub struct TraceFile {
    path: PathBuf,
    file: File,
}

impl TraceFile {
    /// Opens the file, folders included; what it holds stays. A link or a device is written through and stays one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let keeping = OpenOptions::new().create(true).write(true).truncate(false).clone();
        let file = open(path, &keeping).map_err(|source| TraceError { path: path.into(), source })?;
        Ok(Self { path: path.into(), file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces what the file holds by `text`. A file that was moved or removed meanwhile is made anew.
    ///
    /// # Errors
    /// When it cannot be written; what it held is gone then.
    pub fn write(&mut self, text: &str) -> Result<(), TraceError> {
        if !in_place(&self.file, &self.path) {
            *self = Self::open(&self.path)?;
        }
        replace(&mut self.file, text).map_err(|source| TraceError { path: self.path.clone(), source })
    }
}

/// What is no regular file has neither length nor beginning.
fn replace(file: &mut File, text: &str) -> io::Result<()> {
    if file.metadata()?.is_file() {
        file.set_len(0)?;
        file.rewind()?;
    }
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};

    #[test]
    fn what_it_holds_stays_until_it_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/trace.json");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(&path, "an older and longer trace").unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        let mut file = TraceFile::open(&path).unwrap();
        assert_eq!(read(), "an older and longer trace");
        file.write("{}").unwrap();
        assert_eq!(read(), "{}");
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        file.write("[]").unwrap();
        assert_eq!(read(), "[]");
        assert!(TraceFile::open(dir.path()).unwrap_err().to_string().contains("--trace-file"));
    }

    #[test]
    fn links_and_devices_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let [target, link] = ["target.json", "link.json"].map(|name| dir.path().join(name));
        symlink(&target, &link).unwrap();
        TraceFile::open(&link).unwrap().write("{}").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "{}");
        let device = dir.path().join("null");
        symlink("/dev/null", &device).unwrap();
        TraceFile::open(&device).unwrap().write("{}").unwrap();
        assert!(std::fs::metadata(&device).unwrap().file_type().is_char_device());
        assert!(std::fs::symlink_metadata(&device).unwrap().is_symlink());
    }
}
