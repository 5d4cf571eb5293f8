//! What a source of images is.

use image::RgbImage;

/// Which half of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// For training.
    Train,
    /// For evaluation.
    Val,
}

impl Split {
    /// Name of its folder.
    pub fn folder(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
        }
    }

    /// The other half.
    pub fn other(self) -> Split {
        match self {
            Split::Train => Split::Val,
            Split::Val => Split::Train,
        }
    }
}

/// What is wrong with an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// The system does not give its bytes, perhaps for now only.
    #[error("{0}")]
    Unread(String),
    /// Its bytes are no image.
    #[error("{0}")]
    Corrupt(String),
}

/// An image's place and name.
pub(super) trait Images: Send + Sync {
    fn len(&self) -> usize;
    fn label(&self, index: usize) -> usize;
    /// Name for messages.
    fn name(&self, index: usize) -> String;
    /// Decodes; the error says what is wrong with the image.
    fn image(&self, index: usize) -> Result<RgbImage, Broken>;
}
