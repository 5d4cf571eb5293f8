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
pub enum Broken {
    /// The system does not give its bytes, perhaps for now only.
    #[error("{0}")]
    Unread(String),
    /// Its bytes are no image.
    #[error("{0}")]
    Corrupt(String),
}

/// Labelled images, by index from 0.
pub trait Images: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Label of an image: the index of its class.
    fn label(&self, index: usize) -> usize;
    /// Name of an image for messages, e.g. its path.
    fn name(&self, index: usize) -> String;
    /// Decodes an image, of any size; the error says what is wrong with it. It must give the same pixels whenever it is
    /// asked, from any thread.
    fn image(&self, index: usize) -> Result<RgbImage, Broken>;
}
