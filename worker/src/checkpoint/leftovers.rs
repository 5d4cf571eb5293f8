//! What a run that was killed while it wrote leaves in its folder, cleaned by the next one that holds the lock.

use super::CheckpointError;
use super::store::{MANIFEST, parse_name};
use std::fs;
use std::path::{Path, PathBuf};

/// A hidden entry of a run's folder.
#[derive(Debug, PartialEq, Eq)]
enum Leftover<'a> {
    /// `.<checkpoint>.<pid>`: written, or being written.
    Partial { checkpoint: &'a str },
    /// `.<checkpoint>.old`: moved away for a new one of the same name.
    Replaced { checkpoint: &'a str },
    /// A file that was to be renamed: `.run.json.<pid>`, `.trial.<pid>.<letter>`.
    File,
}

/// What an entry's name says; none for what is not ours.
fn kind(name: &str) -> Option<Leftover<'_>> {
    let hidden = name.strip_prefix('.')?;
    let pid = |text: &str| text.parse::<u32>().is_ok();
    if let Some(rest) = hidden.strip_prefix("trial.") {
        return pid(rest.split('.').next()?).then_some(Leftover::File);
    }
    if let Some(rest) = hidden.strip_prefix("run.json.") {
        return pid(rest).then_some(Leftover::File);
    }
    let (checkpoint, rest) = hidden.split_once('.')?;
    parse_name(checkpoint)?;
    match rest {
        "old" => Some(Leftover::Replaced { checkpoint }),
        rest => pid(rest).then_some(Leftover::Partial { checkpoint }),
    }
}

/// Removes them and returns their names. Killed between the two renames that replace a checkpoint, a run leaves none of
/// that name: then the old one is put back, for it is complete.
pub(super) fn clean(root: &Path) -> Result<Vec<String>, CheckpointError> {
    let entries = fs::read_dir(root).map_err(CheckpointError::io("list", root))?;
    let names: Vec<String> =
        entries.filter_map(Result::ok).filter_map(|e| e.file_name().into_string().ok()).collect();
    let mut cleaned = Vec::new();
    for name in names {
        let path = root.join(&name);
        match kind(&name) {
            Some(Leftover::Replaced { checkpoint }) if restorable(root, checkpoint, &path) => {
                let back = root.join(checkpoint);
                fs::rename(&path, &back).map_err(CheckpointError::io("put back", &back))?;
                tracing::warn!("put back {}: a run was killed while it replaced it", back.display());
                continue;
            }
            Some(Leftover::Partial { .. } | Leftover::Replaced { .. }) => {
                fs::remove_dir_all(&path).map_err(CheckpointError::io("remove the partial", &path))?;
            }
            Some(Leftover::File) => {
                fs::remove_file(&path).map_err(CheckpointError::io("remove the partial", &path))?;
            }
            None => continue,
        }
        cleaned.push(name);
    }
    cleaned.sort();
    Ok(cleaned)
}

fn restorable(root: &Path, checkpoint: &str, old: &Path) -> bool {
    let complete = |folder: PathBuf| folder.join(MANIFEST).is_file();
    !complete(root.join(checkpoint)) && complete(old.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_touched() {
        let partial = |checkpoint| Some(Leftover::Partial { checkpoint });
        for (name, want) in [
            (".3.4711", partial("3")),
            (".0-30.1", partial("0-30")),
            (".3.old", Some(Leftover::Replaced { checkpoint: "3" })),
            (".run.json.12", Some(Leftover::File)),
            (".trial.12.a", Some(Leftover::File)),
            ("3", None),
            (".lock", None),
            (".git", None),
            (".notes.12", None),
            (".3.backup", None),
            ("run.json", None),
        ] {
            assert_eq!(kind(name), want, "{name}");
        }
    }

    #[test]
    fn partials_go_and_a_checkpoint_that_was_being_replaced_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in [".2.17", ".1.old", "1", ".3.old", ".keep"] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join(MANIFEST), folder).unwrap();
        }
        fs::write(at(".run.json.17"), "").unwrap();
        assert_eq!(clean(dir.path()).unwrap(), [".1.old", ".2.17", ".run.json.17"]);
        assert_eq!(fs::read_to_string(at("1").join(MANIFEST)).unwrap(), "1");
        assert_eq!(fs::read_to_string(at("3").join(MANIFEST)).unwrap(), ".3.old");
        assert!(at(".keep").exists() && !at(".3.old").exists());
        assert_eq!(clean(dir.path()).unwrap(), [""; 0]);
    }
}
