//! A set of labelled images, wherever they come from.

use super::found::Found;
use super::source::{Images, Split};
use super::wanted::{Names, Wanted};
use super::{DataError, digits, folder, synthetic};
use crate::config::UNTOLD_CLASSES;
use std::path::Path;

/// Labelled images of one split.
pub struct Dataset {
    pub(super) images: Box<dyn Images>,
    /// Names of the classes, in the order of their labels.
    pub classes: Vec<String>,
    /// What was found, and what of it is not used.
    pub found: Found,
}

impl Dataset {
    /// A set of one's own; `classes` are the names of the labels, in their order.
    pub fn new(split: Split, images: impl Images + 'static, classes: Vec<String>) -> Dataset {
        let found = Found {
            split,
            root: "given".into(),
            images: images.len(),
            classes: classes.len(),
            absent: Vec::new(),
            left_out: Default::default(),
        };
        Dataset { images: Box::new(images), classes, found }
    }

    /// Opens a split. Its classes are those of the data, which must be what is wanted.
    ///
    /// # Errors
    /// When the data is not there or has other classes, or what is wanted cannot be.
    pub fn open(split: Split, wanted: &Wanted) -> Result<Dataset, DataError> {
        if !(0.0..1.0).contains(&wanted.val_fraction) {
            let why = format!("the fraction is {}; it is a number from 0 to below 1", wanted.val_fraction);
            return Err(DataError::held_out(Path::new(wanted.root), why));
        }
        if wanted.root == "synthetic" && wanted.side == 0 {
            return Err(DataError::Settings(
                "side is 0; it is that of synthetic images, at least 1 pixel".into(),
            ));
        }
        if wanted.val_fraction > 0.0 && matches!(wanted.root, "digits" | "synthetic") {
            let why = "it has images for validation of its own".into();
            return Err(DataError::held_out(Path::new(wanted.root), why));
        }
        let set = match wanted.root {
            "digits" => {
                let images = Box::new(digits::Digits::open(split)?);
                Dataset::complete(split, wanted, images, (0..10).map(|d| d.to_string()).collect())?
            }
            "synthetic" => {
                let names: Vec<String> = match wanted.names {
                    Names::OfData => (0..UNTOLD_CLASSES).map(|c| format!("class{c}")).collect(),
                    Names::Count(n) => (0..n).map(|c| format!("class{c}")).collect(),
                    Names::Known { names, .. } => names.to_vec(),
                };
                let images = wanted.synthetic_images;
                let images = synthetic::Synthetic { images, classes: names.len(), side: wanted.side, split };
                Dataset::complete(split, wanted, Box::new(images), names)?
            }
            path => {
                let folder::Opened { images, classes, found } = folder::open(Path::new(path), split, wanted)?;
                Dataset { images: Box::new(images), classes, found }
            }
        };
        let (root, found) = (wanted.root.to_string(), set.classes.len());
        match wanted.names {
            Names::Count(wanted) if wanted != found => Err(DataError::Classes { root, found, wanted }),
            _ if found < 2 => Err(DataError::OneClass { root, names: set.classes.join(", ") }),
            _ => Ok(set),
        }
    }

    /// A set whose source has images of all its classes.
    fn complete(
        split: Split,
        wanted: &Wanted,
        images: Box<dyn Images>,
        classes: Vec<String>,
    ) -> Result<Dataset, DataError> {
        if let Names::Known { names, whose, remedy } = wanted.names
            && names != classes
        {
            return Err(DataError::other_classes(wanted.root, whose, names, &classes, remedy));
        }
        let found = Found {
            split,
            root: wanted.root.into(),
            images: images.len(),
            classes: classes.len(),
            absent: Vec::new(),
            left_out: Default::default(),
        };
        Ok(Dataset { images, classes, found })
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
