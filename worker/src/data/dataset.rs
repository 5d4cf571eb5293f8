//! A set of labelled images, wherever they come from.

use super::source::{Images, Split};
use super::{DataError, digits, folder, synthetic};
use std::path::Path;

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
