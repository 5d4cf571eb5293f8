//! A set of labelled images, wherever they come from.

use super::{DataError, digits, folder, synthetic};
use image::RgbImage;
use std::path::Path;

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
}

/// An image's place and name.
pub(super) trait Images: Send + Sync {
    fn len(&self) -> usize;
    fn label(&self, index: usize) -> usize;
    /// Name for messages.
    fn name(&self, index: usize) -> String;
    /// Decodes; the error says what is wrong with the image.
    fn image(&self, index: usize) -> Result<RgbImage, String>;
}

/// Labelled images of one split.
pub struct Dataset {
    pub(super) images: Box<dyn Images>,
    /// Names of the classes, in the order of their labels.
    pub classes: Vec<String>,
    /// Where it comes from, for messages.
    pub root: String,
}

impl Dataset {
    /// Opens a split of `root`: `digits`, `synthetic` (with `synthetic_images` images of `shape` and `classes`
    /// classes), or a folder with `train/<class>/` and `val/<class>/`. `classes` must be what is there.
    pub fn open(
        root: &str,
        split: Split,
        classes: usize,
        shape: [usize; 3],
        synthetic_images: usize,
    ) -> Result<Dataset, DataError> {
        let (images, names): (Box<dyn Images>, Vec<String>) = match root {
            "digits" => (Box::new(digits::Digits::open(split)?), (0..10).map(|d| d.to_string()).collect()),
            "synthetic" => (
                Box::new(synthetic::Synthetic { images: synthetic_images, classes, side: shape[1], split }),
                (0..classes).map(|c| format!("class{c}")).collect(),
            ),
            path => {
                let (folder, names) = folder::Folder::open(Path::new(path), split)?;
                (Box::new(folder), names)
            }
        };
        if names.len() != classes {
            return Err(DataError::Classes { root: root.into(), found: names.len(), wanted: classes });
        }
        Ok(Dataset { images, classes: names, root: root.into() })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Label of an image.
    pub fn label(&self, index: usize) -> usize {
        self.images.label(index)
    }
}
