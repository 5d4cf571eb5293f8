//! Files that a command writes: whole or not at all, and what is said where they cannot be.

use super::Exit;
use crate::checkpoint::{self, CheckpointError};
use crate::launcher::{EXIT_CONFIGURATION, EXIT_ERROR};
use std::io::ErrorKind;
use std::path::Path;

/// Why `path`, given by `flag`, could not be written, and what to do. A place where nothing can ever be written is a
/// configuration that cannot be run; a full disk may have room later.
fn refused(flag: &str, path: &Path, e: &CheckpointError) -> Exit {
    let path = path.display();
    let (code, message) = match e {
        CheckpointError::NoSpace { .. } => (
            EXIT_ERROR,
            format!(
                "no space left on device while writing {flag} `{path}`: nothing was written; free some, or give {flag} a place on another disk"
            ),
        ),
        CheckpointError::Io { what, path: at, source } => {
            let never = matches!(
                source.kind(),
                ErrorKind::ReadOnlyFilesystem
                    | ErrorKind::PermissionDenied
                    | ErrorKind::NotADirectory
                    | ErrorKind::IsADirectory
                    | ErrorKind::AlreadyExists
            );
            let code = if never { EXIT_CONFIGURATION } else { EXIT_ERROR };
            let message = format!(
                "cannot write {flag} `{path}`: cannot {what} `{}`: {source}; nothing was written; give {flag} a file in a folder that can be written",
                at.display()
            );
            (code, message)
        }
        other => (EXIT_ERROR, format!("cannot write {flag} `{path}`: {other}")),
    };
    Exit { code, message }
}

/// Whether there is a folder for the file that `flag` names; to be asked before anything is computed for it. None is made:
/// a path that leads nowhere is a slip of the pen.
pub fn ensure_folder(flag: &str, path: &Path) -> Result<(), Exit> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        return Ok(());
    }
    Err(Exit::configuration(format!(
        "cannot write {flag} `{}`: there is no folder `{}`; make it (mkdir -p), or give {flag} a file in a folder that is there",
        path.display(),
        folder.display()
    )))
}

/// Writes the file that `flag` names, into a folder that is there.
pub fn write(flag: &str, path: &Path, bytes: &[u8]) -> Result<(), Exit> {
    ensure_folder(flag, path)?;
    checkpoint::write_atomic(path, bytes).map_err(|e| refused(flag, path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn what_cannot_be_written_says_what_where_and_what_to_do() {
        let path = Path::new("/models/m.onnx");
        let io =
            |kind| CheckpointError::Io { what: "make", path: path.into(), source: io::Error::from(kind) };
        for (e, code, want) in [
            (CheckpointError::NoSpace { path: path.into() }, EXIT_ERROR, "no space left on device"),
            (io(ErrorKind::ReadOnlyFilesystem), EXIT_CONFIGURATION, "read-only filesystem"),
            (io(ErrorKind::PermissionDenied), EXIT_CONFIGURATION, "permission denied"),
            (io(ErrorKind::TimedOut), EXIT_ERROR, "timed out"),
        ] {
            let told = refused("--output", path, &e);
            assert_eq!(told.code, code, "{}", told.message);
            for part in [want, "--output `/models/m.onnx`", "nothing was written"] {
                assert!(told.message.contains(part), "{part} in {}", told.message);
            }
            assert!(!told.message.contains("--from-checkpoint"), "{}", told.message);
        }
        assert!(write("--output", Path::new("/proc/self/x"), b"x").is_err());
        let dir = tempfile::tempdir().unwrap();
        let e = write("--output", &dir.path().join("modles/m.onnx"), b"x").unwrap_err();
        assert_eq!(e.code, EXIT_CONFIGURATION);
        assert!(e.message.contains("no folder `") && e.message.contains("modles"), "{}", e.message);
        assert!(!dir.path().join("modles").exists());
        ensure_folder("--output", Path::new("m.onnx")).unwrap();
    }
}
