//! What data is wanted, and with which classes.

use crate::config::{DataSettings, ModelSettings};

/// Which classes there must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Names<'a> {
    /// Those of the data.
    OfData,
    /// So many.
    Count(usize),
    /// These, numbered like this: those of a checkpoint or a file.
    Known {
        /// The names.
        names: &'a [String],
        /// Whose they are, for messages.
        whose: &'a str,
        /// What to do where the data has others, for messages.
        remedy: &'static str,
    },
}

/// What data is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted<'a> {
    /// `digits`, `synthetic`, or a folder with `train/<class>/` and `val/<class>/`.
    pub root: &'a str,
    /// Which classes.
    pub names: Names<'a>,
    /// Side of synthetic images, in pixels.
    pub side: usize,
    /// Number of synthetic images.
    pub synthetic_images: usize,
    /// Part of the images of a folder without `val/` that is for validation; 0 where `val/` is.
    pub val_fraction: f64,
    /// Classes may lack images: in one of the splits, or where their folder is empty.
    pub allow_missing_classes: bool,
}

impl<'a> Wanted<'a> {
    /// The data of a run.
    pub fn of(model: &ModelSettings, data: &'a DataSettings) -> Self {
        Self {
            root: &data.image_root,
            names: model.num_of_class.map_or(Names::OfData, Names::Count),
            side: model.image_shape[1],
            synthetic_images: data.synthetic_images,
            val_fraction: data.val_fraction,
            allow_missing_classes: data.allow_missing_classes,
        }
    }
}
