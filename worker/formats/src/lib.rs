//! Reads the weights that other frameworks write.
//!
//! Everything here is a pure function of bytes: no file is opened, nothing in a file is executed, and memory stays within a
//! small multiple of the file's size and a third of a gigabyte, whatever the file says of itself.

mod elements;
pub mod onnx;
pub mod paddle;
pub mod pickle;
pub mod pytorch;

pub use elements::{Element, Tensor};

use std::collections::BTreeMap;

/// Tensors by the names that the file gives them.
pub type Tensors = BTreeMap<String, Tensor>;

/// Why a file's weights cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The file is cut short, or says something that cannot be.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The file is whole and is not what was expected of it.
    #[error("it is not {wanted}: {found}")]
    Foreign {
        /// What it should be.
        wanted: &'static str,
        /// What it is, and what to do.
        found: String,
    },
}

impl FormatError {
    pub(crate) fn damaged(why: impl std::fmt::Display) -> Self {
        Self::Damaged(why.to_string())
    }

    /// The same of a part of the file, by its name.
    pub(crate) fn within(self, part: &str) -> Self {
        match self {
            Self::Damaged(why) => Self::Damaged(format!("{part}: {why}")),
            Self::Foreign { wanted, found } => Self::Foreign { wanted, found: format!("{part} is {found}") },
        }
    }
}
