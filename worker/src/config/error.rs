//! What can be wrong with a configuration, and what of it was given.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// A configuration that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {} `{path}`: {source}", named("config"))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or value that no flag has.
    #[error("{} `{path}`: {why}", named("config"))]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A value out of its range, or a combination that makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// The settings that were given, by the keys of the file.
pub type Given = BTreeSet<String>;

/// A setting as its user knows it: by its flag where there is a command line, else by its key in a file.
pub(super) fn named(key: &str) -> String {
    if cfg!(feature = "cli") { format!("--{key}") } else { format!("`{key}`") }
}
