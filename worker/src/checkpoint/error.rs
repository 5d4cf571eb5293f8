//! What can go wrong with a checkpoint.

use crate::data::listed;
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
        "no space left on device while writing `{path}`; free some and go on from the last checkpoint: those that were complete are untouched"
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
    /// Something else altogether.
    #[error("`{path}` is not {wanted}: {why}")]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// What it was taken for.
        wanted: &'static str,
        /// What it is, and what to give instead.
        why: String,
    },
    /// Truncated or altered.
    #[error("checkpoint file `{path}` is damaged: {why}; earlier checkpoints of its run are untouched")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A file of weights of somebody's, truncated or altered.
    #[error("`{path}` is damaged: {why}; take another copy of it")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// Weights that no network computes with.
    #[error(
        "`{path}` has weights that are not finite numbers: {}; take them from before the training that made them failed",
        listed(.tensors)
    )]
    NotFinite {
        /// Where they come from.
        path: PathBuf,
        /// The tensors that hold them, with how many.
        tensors: Vec<String>,
    },
    /// A setting this version cannot read; the checkpoint itself is whole.
    #[error(
        "`{path}` was trained with a setting this version does not know: {why}; use octrain {writer}, which wrote it"
    )]
    Setting {
        /// The manifest.
        path: PathBuf,
        /// The setting.
        why: String,
        /// Version that wrote it.
        writer: String,
    },
    /// Saved by a program of its own.
    #[error(
        "`{path}` was not saved by `octrain train`, so there are no settings to go on with: take its weights alone, or go on in the program that wrote it"
    )]
    NoSettings {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Its manifest says two things at once.
    #[error(
        "`{path}` contradicts itself: {why}. Octrain writes no such manifest: it was changed by hand, or put together from two; take another checkpoint of the run, or train from its weights alone, FOLDER/model.safetensors"
    )]
    Contradiction {
        /// The manifest.
        path: PathBuf,
        /// What contradicts what.
        why: String,
    },
    /// The network cannot be used.
    #[error("the network in `{path}` cannot be used: {why}")]
    Graph {
        /// The graph's file.
        path: PathBuf,
        /// What is the matter with it, and what to do.
        why: String,
    },
    /// Graph and weights are not of one network.
    #[error(
        "checkpoint `{path}` has a graph (graph.json) of {network} and weights (model.safetensors) that do not belong to it: {mismatch}. Octrain writes no such checkpoint: copy both files from the same one, or take another"
    )]
    Unfit {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the network.
        network: String,
        /// What does not match.
        mismatch: Box<super::Mismatch>,
    },
    /// A run works there.
    #[error(
        "the output folder `{path}` is in use by another run ({holder}). Two runs cannot share a folder: wait for that one to end, or take another folder"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Who says to be in it.
        holder: String,
    },
    /// The writer is one no more.
    #[error(
        "`{path}` was not saved: while it was being written, this worker's generation ended, or the job went on without it"
    )]
    GivenUp {
        /// The checkpoint.
        path: PathBuf,
    },
    /// Checkpoints of others are there.
    #[error(
        "the output folder `{path}` cannot be this run's: {why}. Go on with what is there, overwrite it, or take another folder"
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What is there.
        why: String,
    },
    /// The run would go on from a checkpoint that others of it are beyond.
    #[error(
        "this run starts from {start}, but checkpoints that are further are in `{path}`: {names}; whoever asks for the furthest would get one of those. Go on from the furthest, overwrite those beyond {start}, or take another folder"
    )]
    Behind {
        /// The folder.
        path: PathBuf,
        /// Name of the checkpoint it starts from.
        start: String,
        /// Names of those beyond.
        names: String,
    },
    /// Nothing can be written there.
    #[error(
        "the output folder `{path}` cannot be written (tried to {what}): {source}; make it writable or take another folder"
    )]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// Not enough room.
    #[error(
        "the output folder `{path}` has {} MiB left, and two checkpoints of this run take {} MiB; free some or take another folder",
        .free >> 20, (.needed >> 20) + 1
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Bytes left.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Rank 0's checkpoint is not seen here.
    #[error(
        "rank 0 goes on from `{path}`, which this host {what}: checkpoints must lie in a folder that all hosts share, or be copied to every host"
    )]
    NotShared {
        /// The checkpoint.
        path: PathBuf,
        /// What is the matter here.
        what: &'static str,
    },
    /// Written by a later version.
    #[error("`{path}` has checkpoint format {found}, this version reads {known}; use a newer octrain")]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Format found.
        found: u64,
        /// Format known.
        known: u32,
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
    #[error("the weights in `{path}` do not match the network, {network}: {mismatch}")]
    Mismatch {
        /// Where they come from.
        path: PathBuf,
        /// Name of the network.
        network: String,
        /// Name of the network that they are of, where they are a checkpoint's.
        own: Option<String>,
        /// What does not match.
        mismatch: Box<super::Mismatch>,
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

    /// An output folder that does not let itself be written: by its name or its rights, which are the same the next time,
    /// or by what the system has run into.
    pub(super) fn unwritable(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
        use io::ErrorKind as K;
        let path = path.to_path_buf();
        move |source| match source.kind() {
            // A stale handle, a file server that does not answer, no descriptors: another start may find it mended.
            K::StorageFull | K::QuotaExceeded => CheckpointError::NoSpace { path },
            K::StaleNetworkFileHandle
            | K::TimedOut
            | K::Interrupted
            | K::ResourceBusy
            | K::HostUnreachable => CheckpointError::Io { what, path, source },
            _ if matches!(
                source.raw_os_error(),
                Some(libc::EIO | libc::ENOLCK | libc::EMFILE | libc::ENFILE)
            ) =>
            {
                CheckpointError::Io { what, path, source }
            }
            _ => CheckpointError::Unwritable { what, path, source },
        }
    }

    /// A folder that another process holds.
    pub(super) fn in_use(path: &Path, holder: Option<&super::lock::Holder>) -> CheckpointError {
        let holder = holder.map_or_else(|| "it does not say which".into(), ToString::to_string);
        CheckpointError::InUse { path: path.into(), holder }
    }

    /// Whether trying again would end the same way.
    pub fn is_configuration(&self) -> bool {
        use CheckpointError as E;
        match self {
            E::NotFound { .. }
            | E::Broken { .. }
            | E::NotFinite { .. }
            | E::Other { .. }
            | E::Mismatch { .. }
            | E::Format { .. }
            | E::Setting { .. }
            | E::NoSettings { .. }
            | E::Contradiction { .. }
            | E::Graph { .. }
            | E::Unfit { .. }
            | E::Occupied { .. }
            | E::Behind { .. }
            | E::Unwritable { .. }
            | E::Foreign { .. }
            | E::NotShared { .. } => true,
            // A disk that is full now, at the start or later, may have room the next time.
            E::InUse { .. }
            | E::GivenUp { .. }
            | E::NoSpace { .. }
            | E::NoRoom { .. }
            | E::Io { .. }
            | E::Damaged { .. } => false,
        }
    }

    /// Whether it is the storage's failure, and no process's that works on it.
    pub fn is_storage(&self) -> bool {
        use CheckpointError as E;
        matches!(self, E::NoSpace { .. } | E::NoRoom { .. } | E::Io { .. })
    }

    pub(super) fn damaged(path: &Path, why: impl ToString) -> CheckpointError {
        CheckpointError::Damaged { path: path.into(), why: why.to_string() }
    }
}
