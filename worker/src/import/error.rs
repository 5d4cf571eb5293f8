//! What can go wrong with an import.

use crate::checkpoint::{CheckpointError, Mismatch};
use crate::data::listed;
use crate::models::ModelError;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// An error of an import; nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The system does not let it be read.
    #[error("cannot read `{path}`: {source}")]
    Unread {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Nothing that can be imported.
    #[error("`{path}` cannot be imported: {why}")]
    Unknown {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// The weights are not those of the network.
    #[error("the weights in `{path}` are not those of {network}:{findings}")]
    Unfit {
        /// The file or folder.
        path: PathBuf,
        /// The network.
        network: String,
        /// Everything that does not fit.
        findings: Findings,
    },
    /// What is there is not all that is needed, or cannot be taken.
    #[error("`{path}` cannot be imported:{findings}")]
    Incomplete {
        /// The file or folder.
        path: PathBuf,
        /// Everything that is the matter.
        findings: Findings,
    },
    /// The network is for other images.
    #[error("`{path}` has a network for images of {found} channels, and {wanted} are wanted")]
    Channels {
        /// The file or folder.
        path: PathBuf,
        /// Channels of its images.
        found: usize,
        /// Those that are wanted.
        wanted: usize,
    },
    /// No network was named, and the weights are like those of none.
    #[error(
        "the weights in `{path}` are not those of any of Octrain's networks, nor nearly so: it holds {}. A network of another kind is taken with its graph: export it as ONNX, and import that file",
        counted("tensors", .names)
    )]
    Unlike {
        /// The file or folder.
        path: PathBuf,
        /// Names of its tensors.
        names: Vec<String>,
    },
    /// No network was named, and the weights are those of none, though nearly of one.
    #[error(
        "the weights in `{path}` are those of none of Octrain's networks; of {network}, which is closest, this does not fit:{findings}"
    )]
    NoNetwork {
        /// The file or folder.
        path: PathBuf,
        /// The closest network.
        network: String,
        /// Everything that does not fit it.
        findings: Findings,
    },
    /// A file says more than is taken of its kind.
    #[error("`{path}` cannot be taken as it is:{findings}")]
    Untaken {
        /// The file.
        path: PathBuf,
        /// All that is not taken, with what to do.
        findings: Findings,
    },
    /// The network cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file cannot be read as what it is.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl ImportError {
    /// Whether trying again would end the same way.
    pub fn is_configuration(&self) -> bool {
        match self {
            ImportError::Checkpoint(e) => e.is_configuration(),
            ImportError::Unread { source, .. } => source.kind() == io::ErrorKind::NotFound,
            ImportError::Unknown { .. }
            | ImportError::Unfit { .. }
            | ImportError::Incomplete { .. }
            | ImportError::Channels { .. }
            | ImportError::NoNetwork { .. }
            | ImportError::Unlike { .. }
            | ImportError::Untaken { .. }
            | ImportError::Model(_) => true,
        }
    }
}

/// Names that are the matter with `what`: how many, and the first of them. All of them are logged at the level `debug`.
pub(super) fn counted(what: &str, names: &[String]) -> String {
    let (count, shown) = (names.len(), listed(names));
    let all = names.join(", ");
    if all != shown {
        tracing::debug!("{count} {what}: {all}");
    }
    format!("{count} {what}: {shown}")
}

/// Everything that does not fit, none left out but by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings(pub Vec<String>);

impl Findings {
    /// Whether one of them does not name all that it is about.
    pub fn is_shortened(&self) -> bool {
        self.0.iter().any(|finding| finding.contains(" and ") && finding.contains(" more"))
    }
}

impl fmt::Display for Findings {
    /// Each on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

impl From<Mismatch> for Findings {
    fn from(mismatch: Mismatch) -> Self {
        let Mismatch { missing, unexpected, shapes } = mismatch;
        let shapes: Vec<String> =
            shapes.iter().map(|(name, want, got)| format!("{name} is {got:?}, not {want:?}")).collect();
        let groups = [("missing", missing), ("left over", unexpected), ("of another shape", shapes)];
        let told = groups.into_iter().filter(|(_, names)| !names.is_empty());
        Self(told.map(|(what, names)| counted(what, &names)).collect())
    }
}
