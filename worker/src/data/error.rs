//! What can be wrong with data.

use super::found::listed;
use super::source::Split;
use crate::native::NativeError;
use std::io;
use std::path::{Path, PathBuf};

/// An error of the data; says where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No such folder, or not one.
    #[error(
        "`{path}` is not there ({why}); give a folder that holds train/<class>/ and val/<class>/ with JPEG or PNG files, or `digits`, or `synthetic`"
    )]
    Missing {
        /// The folder.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The system does not give a folder's entries, though it may be there: a mount that went away, a disk that fails.
    #[error("`{path}` cannot be read ({why}); is its file system mounted and well? Then start again")]
    Unlisted {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// No such half.
    #[error(
        "`{path}` has no folder `{}/`{has}; it must hold train/<class>/ and val/<class>/ with JPEG or PNG files, or be one folder of classes of which a part is held out for validation",
        split.folder()
    )]
    NoSplit {
        /// The root.
        path: PathBuf,
        /// The half.
        split: Split,
        /// What is there instead.
        has: String,
    },
    /// Nothing in it.
    #[error(
        "`{path}` holds no {what}{}; it must have one folder per class with JPEG or PNG files",
        if has.is_empty() { String::new() } else { format!(" (but {has})") }
    )]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What was found.
        has: String,
        /// Whether the folder is that of one class among others.
        of_class: bool,
    },
    /// A class's name is not text.
    #[error("the name of `{path}` is not UTF-8; rename the folder, its name is the class's")]
    Name {
        /// The folder.
        path: PathBuf,
    },
    /// Classes of the two halves differ.
    #[error(
        "`{path}` has classes in one half only: {alone}; add their images to the other half, take the folders away, or allow that classes are missing"
    )]
    OneSided {
        /// The root.
        path: PathBuf,
        /// Which, where.
        alone: String,
    },
    /// The classes of the data are not those of a checkpoint or a file.
    #[error("`{root}` has other classes than {whose}: {difference}; {remedy}")]
    OtherClasses {
        /// The data.
        root: String,
        /// Whose classes are wanted.
        whose: String,
        /// Which.
        difference: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Nothing to tell apart.
    #[error("`{root}` has one class only ({names}); at least 2 are needed")]
    OneClass {
        /// Where.
        root: String,
        /// The class.
        names: String,
    },
    /// Not as many classes as were told.
    #[error("{wanted} classes are wanted, but {root} has {found} classes")]
    Classes {
        /// Where.
        root: String,
        /// Classes there.
        found: usize,
        /// Classes told.
        wanted: usize,
    },
    /// A folder cannot be split into images for training and for validation.
    #[error("no part of `{root}` can be held out for validation: {why}")]
    HeldOut {
        /// The data.
        root: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// A setting of the data that cannot be used.
    #[error("the settings of the data: {0}")]
    Settings(String),
    /// Less than a global batch.
    #[error(
        "{images} training images do not fill one global batch of {global}: microbatches of {fits} images fit"
    )]
    TooFew {
        /// Images.
        images: usize,
        /// Global batch.
        global: usize,
        /// The largest batch that fits.
        fits: usize,
    },
    /// Too many images that cannot be read.
    #[error(
        "{count} images cannot be decoded, more than the {limit} that are tolerated; the last one: {last}"
    )]
    Corrupt {
        /// How many.
        count: usize,
        /// How many may be.
        limit: usize,
        /// Name and reason of one.
        last: String,
    },
    /// Too many images whose bytes the system does not give.
    #[error(
        "{count} images cannot be read, more than the {limit} that are tolerated; is the data still there? The last one: {last}"
    )]
    Unread {
        /// How many cannot be read or decoded.
        count: usize,
        /// How many may be.
        limit: usize,
        /// Name and reason of one.
        last: String,
    },
    /// The embedded digits are not there.
    #[error("the digits data cannot be read from `{path}`: {why}; run scripts/setup.sh")]
    Digits {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// No memory for a microbatch.
    #[error("out of memory: {mib} MiB for the pixels of one microbatch")]
    Memory {
        /// What was asked for.
        mib: usize,
    },
    /// The loader's thread is gone or hangs.
    #[error("the data loader {0}")]
    Loader(String),
    /// The loader's thread, or one that decodes for it, panicked. What it had not read yet was not read.
    #[error("the data loader panicked: {0}; this is a fault of octrain, please report it")]
    Panicked(String),
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// What a copy to a device said: libtorch's own words.
impl From<NativeError> for DataError {
    fn from(e: NativeError) -> Self {
        Self::Torch(tch::TchError::Torch(e.0))
    }
}

impl DataError {
    /// Whether trying again with the same settings and data cannot help.
    pub fn is_configuration(&self) -> bool {
        !matches!(
            self,
            DataError::Unlisted { .. }
                | DataError::Unread { .. }
                | DataError::Loader(_)
                | DataError::Panicked(_)
                | DataError::Torch(_)
        )
    }

    pub(super) fn missing(path: &Path, why: &str) -> Self {
        DataError::Missing { path: path.into(), why: why.into() }
    }

    /// A folder that cannot be looked into: by its name or its rights, which are the same the next time, or by what the
    /// system has run into.
    pub(super) fn unlisted(path: &Path, e: &io::Error) -> Self {
        use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied};
        // No name of a file: too long, or links that lead round.
        let no_name = matches!(e.raw_os_error(), Some(libc::ENAMETOOLONG | libc::ELOOP));
        match e.kind() {
            NotFound | NotADirectory | PermissionDenied | InvalidInput => Self::missing(path, &e.to_string()),
            _ if no_name => Self::missing(path, &e.to_string()),
            _ => DataError::Unlisted { path: path.into(), why: e.to_string() },
        }
    }

    pub(super) fn held_out(root: &Path, why: String) -> Self {
        DataError::HeldOut { root: root.into(), why }
    }

    /// A root without one of its halves; says what it holds instead.
    pub(super) fn no_split(root: &Path, split: Split) -> Self {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter(|e| e.path().is_dir())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let has = match names.is_empty() {
            true => String::new(),
            false => format!(" (its folders: {})", listed(&names)),
        };
        DataError::NoSplit { path: root.into(), split, has }
    }

    pub(super) fn one_sided(root: &Path, alone: [(Split, Vec<String>); 2]) -> Self {
        let told: Vec<String> = alone
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(split, names)| format!("{}/ alone has {}", split.folder(), listed(names)))
            .collect();
        DataError::OneSided { path: root.into(), alone: told.join("; ") }
    }

    pub(super) fn other_classes(
        root: &str,
        whose: &str,
        wanted: &[String],
        here: &[String],
        remedy: &'static str,
    ) -> Self {
        let without = |a: &[String], b: &[String]| -> Vec<String> {
            a.iter().filter(|n| !b.contains(n)).cloned().collect()
        };
        let mut told = Vec::new();
        for (names, what) in [(without(wanted, here), "lacks"), (without(here, wanted), "alone has")] {
            if !names.is_empty() {
                told.push(format!("the data {what} {}", listed(&names)));
            }
        }
        if told.is_empty() {
            told.push("the same names in another order".into());
        }
        DataError::OtherClasses {
            root: root.into(),
            whose: whose.into(),
            difference: told.join("; "),
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_the_system_fails_to_read_is_worth_another_start() {
        for (code, configuration) in [
            (libc::ENOENT, true),
            (libc::ENOTDIR, true),
            (libc::EACCES, true),
            (libc::ENAMETOOLONG, true),
            (libc::ELOOP, true),
            (libc::ESTALE, false),
            (libc::EIO, false),
            (libc::ENOTCONN, false),
            (libc::EMFILE, false),
        ] {
            let e = DataError::unlisted(Path::new("/data"), &io::Error::from_raw_os_error(code));
            assert_eq!(e.is_configuration(), configuration, "{e}");
            assert_eq!(matches!(e, DataError::Missing { .. }), configuration, "{e}");
            assert!(e.to_string().contains("`/data`") && e.to_string().contains("os error"), "{e}");
        }
    }
}
