//! What can go wrong in a runtime.

use std::path::PathBuf;

/// An error of inference.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file cannot be read.
    #[error("cannot read --model `{path}`: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The runtime's library is not there.
    #[error("{engine}: its library cannot be loaded from `{path}`: {why}; run scripts/setup.sh")]
    Library {
        /// The runtime.
        engine: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// The loader's words.
        why: String,
    },
    /// The runtime refuses the file.
    #[error("{engine} cannot {what}: {why}")]
    Runtime {
        /// The runtime.
        engine: &'static str,
        /// What was tried.
        what: &'static str,
        /// Its words.
        why: String,
    },
    /// Images of another size.
    #[error("the model takes batches of {wanted} numbers, {got} were given")]
    Input {
        /// Numbers it takes.
        wanted: usize,
        /// Numbers given.
        got: usize,
    },
    /// Scores of another number of classes.
    #[error(
        "the model gives {got} numbers for a batch, {wanted} were expected: does --classes name each of its outputs?"
    )]
    Output {
        /// Numbers expected.
        wanted: usize,
        /// Numbers it gave.
        got: usize,
    },
}
