//! What can go wrong with a checkpoint.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the checkpoint store. Whatever it is, checkpoints that were complete before are untouched.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Nothing there.
    #[error("no checkpoint at `{path}`: {why}")]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What was found instead, and what to do.
        why: String,
    },
    /// The disk is full.
    #[error(
        "no space left on device while writing `{path}`; free some and start again with --from-checkpoint and --last-epoch-of-checkpoint auto: earlier checkpoints are untouched"
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// Any other error of the system.
    #[error("cannot {what} `{path}`: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Truncated, altered or not a checkpoint.
    #[error(
        "checkpoint file `{path}` is damaged: {why}; take an earlier checkpoint (--last-epoch-of-checkpoint N)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// Written by a later version.
    #[error("`{path}` has checkpoint format {found}, this version reads {known}; use a newer octrain")]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Format found.
        found: u32,
        /// Format known.
        known: u32,
    },
    /// A file of PyTorch's, which is a program in disguise.
    #[error(
        "`{path}` is a PyTorch pickle, not a safetensors file; make one from it with Python: import torch, safetensors.torch; d = torch.load('{path}', map_location='cpu', weights_only=True); d = d.get('state_dict', d); safetensors.torch.save_file({{k: v.contiguous() for k, v in d.items()}}, 'weights.safetensors'), then give --from-pretrained-params weights.safetensors"
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// Does not fit this run.
    #[error("checkpoint `{path}` does not fit this run: {what} is {found} there and {wanted} here{hint}")]
    Other {
        /// The checkpoint.
        path: PathBuf,
        /// The setting.
        what: &'static str,
        /// Its value in the checkpoint.
        found: String,
        /// Its value in this run.
        wanted: String,
        /// What to do.
        hint: &'static str,
    },
    /// Weights do not match the network.
    #[error(
        "the weights in `{path}` do not match the network: {mismatch}; --allow-mismatch takes what fits and initialises the rest"
    )]
    Mismatch {
        /// Where they come from.
        path: PathBuf,
        /// What does not match.
        mismatch: super::Mismatch,
    },
}

impl CheckpointError {
    /// An error of the system, with a full disk told apart.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => CheckpointError::NoSpace { path },
            _ => CheckpointError::Io { what, path, source },
        }
    }

    pub(super) fn damaged(path: &Path, why: impl ToString) -> CheckpointError {
        CheckpointError::Damaged { path: path.into(), why: why.to_string() }
    }
}
