//! Files that are there whole or not at all: written under a temporary name, synced, renamed, the folder synced.

use super::CheckpointError;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Syncs a folder, so that renames in it survive a power cut.
pub(super) fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(CheckpointError::io("sync", path))
}

/// Gives an entry of `folder` another name that is free, and syncs the folder.
pub(super) fn rename(folder: &Path, from: &str, to: &str) -> Result<(), CheckpointError> {
    let path = folder.join(from);
    fs::rename(&path, folder.join(to)).map_err(CheckpointError::io("rename", &path))?;
    sync_folder(folder)
}

/// Renames the finished folder into place; one of the same name is replaced, in one call where the file system has it: in two,
/// a writer that is killed between them leaves none of that name, until the next one puts the old one back.
pub(super) fn put(root: &Path, partial: &Path, target: &Path) -> Result<(), CheckpointError> {
    if !target.exists() {
        fs::rename(partial, target).map_err(CheckpointError::io("rename", target))?;
        return sync_folder(root);
    }
    let old = match exchange(partial, target)? {
        true => match sync_folder(root) {
            Ok(()) => partial.to_path_buf(),
            // What was there is there again, as far as this disk does anything.
            Err(e) => return exchange(partial, target).and(Err(e)),
        },
        false => {
            let old = partial.with_extension("old");
            fs::rename(target, &old).map_err(CheckpointError::io("move away", target))?;
            fs::rename(partial, target).map_err(CheckpointError::io("rename", target))?;
            old
        }
    };
    sync_folder(root)?;
    fs::remove_dir_all(&old).map_err(CheckpointError::io("remove the replaced", &old))
}

/// Puts `new` in the place of `old`, which is there, and `old` in the place of `new`: no moment is without either. False where the
/// file system has no such call, and nothing was changed.
fn exchange(new: &Path, old: &Path) -> Result<bool, CheckpointError> {
    match rustix::fs::renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(CheckpointError::io("rename", old)(e.into())),
    }
}

/// Writes a new file and syncs it.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let mut file = File::create(path).map_err(CheckpointError::io("make", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(CheckpointError::io("write", path))
}

/// The folder a path lies in; `.` for a bare name.
fn folder(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// Writes `path` atomically: a reader sees the old content or the new one. Missing folders are made. On error the
/// old content stays.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let dir = folder(path);
    fs::create_dir_all(&dir).map_err(CheckpointError::io("make the folder", &dir))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = dir.join(format!(".{name}.{}", std::process::id()));
    let written = write_synced(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path).map_err(CheckpointError::io("rename", path)));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written?;
    sync_folder(&dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/x.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::create_dir(&path).unwrap();
        let e = write_atomic(&path, b"x").unwrap_err().to_string();
        assert!(e.contains("cannot rename"), "{e}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_folders_take_each_other_s_place() {
        let dir = tempfile::tempdir().unwrap();
        let [new, old] = ["new", "old"].map(|name| dir.path().join(name));
        for folder in [&new, &old] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("name"), folder.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        if !exchange(&new, &old).unwrap() {
            // A file system without this call keeps them as they were.
            fs::rename(&new, dir.path().join("there")).unwrap();
            fs::rename(&old, &new).unwrap();
            fs::rename(dir.path().join("there"), &old).unwrap();
        }
        assert_eq!(fs::read_to_string(new.join("name")).unwrap(), "old");
        assert_eq!(fs::read_to_string(old.join("name")).unwrap(), "new");
        let e = exchange(&dir.path().join("none"), &old).unwrap_err().to_string();
        assert!(e.contains("cannot rename"), "{e}");
    }

    #[test]
    fn a_full_disk_is_said_to_be_full() {
        let e = write_synced(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(matches!(e, CheckpointError::NoSpace { .. }), "{e}");
    }
}
