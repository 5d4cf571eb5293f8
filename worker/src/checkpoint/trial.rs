//! Whether a folder can hold what a run will write, tried before the first step.

use super::CheckpointError;
use super::atomic::{sync_folder, write_synced};
use rustix::fs::statvfs;
use std::fs;
use std::path::Path;

/// Checkpoints there must be room for: the next one is written before the last one may go.
const CHECKPOINTS: u64 = 2;

/// Writes, syncs, renames and removes a file as a checkpoint is, and asks for the room of two checkpoints of `bytes`
/// each.
pub(super) fn try_out(root: &Path, bytes: u64) -> Result<(), CheckpointError> {
    let [first, second] = ["a", "b"].map(|s| root.join(format!(".trial.{}.{s}", std::process::id())));
    let tried = write_synced(&first, &[0; 4096])
        .and_then(|()| fs::rename(&first, &second).map_err(CheckpointError::io("rename", &first)))
        .and_then(|()| sync_folder(root));
    let _ = fs::remove_file(&first);
    let removed = fs::remove_file(&second);
    match tried {
        Err(CheckpointError::Io { what, source, .. }) => {
            return Err(CheckpointError::unwritable(what, root)(source));
        }
        Err(CheckpointError::NoSpace { .. }) => {
            return Err(CheckpointError::NoRoom { path: root.into(), free: 0, needed: CHECKPOINTS * bytes });
        }
        tried => tried?,
    }
    removed.map_err(CheckpointError::unwritable("remove a file", root))?;
    let s = statvfs(root).map_err(|e| CheckpointError::unwritable("ask for the room", root)(e.into()))?;
    room(root, s.f_blocks, s.f_bavail.saturating_mul(s.f_frsize), CHECKPOINTS * bytes)
}

/// `blocks` of 0 is what file systems say that do not know their size.
fn room(root: &Path, blocks: u64, free: u64, needed: u64) -> Result<(), CheckpointError> {
    if blocks > 0 && free < needed {
        return Err(CheckpointError::NoRoom { path: root.into(), free, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_folder_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        try_out(dir.path(), 1 << 10).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn too_little_room_is_said_in_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let e = try_out(dir.path(), 1 << 60).unwrap_err().to_string();
        assert!(e.contains("two checkpoints") && e.contains("MiB"), "{e}");
        room(Path::new("x"), 0, 0, 10).unwrap();
        assert!(room(Path::new("x"), 1, 9, 10).is_err());
        room(Path::new("x"), 1, 10, 10).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named_with_the_systems_words() {
        // Even root cannot write here.
        let e = try_out(Path::new("/proc/self"), 1).unwrap_err().to_string();
        assert!(e.contains("/proc/self") && e.contains("another folder"), "{e}");
    }
}
