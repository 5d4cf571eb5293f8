//! What can be wrong with a configuration, and what of it was given.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// A configuration that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read --config `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or value that no flag has.
    #[error("--config `{path}`: {why}")]
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
