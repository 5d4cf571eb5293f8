//! What can be wrong with data.

use std::path::PathBuf;

/// An error of the data; says where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No such folder, or not one.
    #[error(
        "--image-root: `{path}` is not there ({why}); give a folder that holds train/<class>/ and val/<class>/ with JPEG or PNG files, or `digits`, or `synthetic`"
    )]
    Missing {
        /// The folder.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Nothing in it.
    #[error(
        "--image-root: `{path}` holds no {what}; it must have one folder per class with JPEG or PNG files"
    )]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Classes of the two halves differ.
    #[error("`{path}` has a class `{class}` that `train/` does not have; both must hold the same classes")]
    ForeignClass {
        /// The validation folder.
        path: PathBuf,
        /// The class.
        class: String,
    },
    /// Not as many classes as the network.
    #[error("--num-of-class is {wanted}, but {root} has {found} classes: say --num-of-class {found}")]
    Classes {
        /// Where.
        root: String,
        /// Classes there.
        found: usize,
        /// Classes of the network.
        wanted: usize,
    },
    /// Less than a global batch.
    #[error(
        "{images} training images do not fill one global batch of {global}; lower --batch-size or --global-batch-size"
    )]
    TooFew {
        /// Images.
        images: usize,
        /// Global batch.
        global: usize,
    },
    /// Too many images that cannot be read.
    #[error(
        "{count} images cannot be decoded, more than the {limit} that --max-corrupt-images allows; the last one: {last}"
    )]
    Corrupt {
        /// How many.
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
    /// libtorch refused.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}
