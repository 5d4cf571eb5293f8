//! Which images there are and how they become batches.

use super::Augmentation;
#[cfg(feature = "cli")]
use super::list::parse_list;
use serde::{Deserialize, Serialize};

/// Which images there are and how they become batches. Sizes in pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(rename_all = "kebab-case")]
pub struct DataSettings {
    /// `digits`, `synthetic`, or a folder with `train/<class>/` and `val/<class>/`.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", default_value = "digits"))]
    pub image_root: String,
    /// Part of the images of every class that is for validation, where `image-root` is one folder of classes (or holds
    /// `train/` and no `val/`); by a hash of each file's name, so that it stays when images are added (0: `val/` is).
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 0.0, allow_hyphen_values = true)
    )]
    pub val_fraction: f64,
    /// Images per microbatch.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 256, allow_negative_numbers = true)
    )]
    pub batch_size: usize,
    /// Images per optimizer step over all workers (none: `batch-size` times the number of workers).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", allow_negative_numbers = true))]
    pub global_batch_size: Option<usize>,
    /// Side of the training and evaluation crop.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 224, allow_negative_numbers = true)
    )]
    pub crop_size: usize,
    /// Short side before the centre crop in evaluation.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 256, allow_negative_numbers = true)
    )]
    pub resize_short: usize,
    /// Training augmentation.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_enum, default_value_t))]
    pub augmentation: Augmentation,
    /// Border of `pad-crop` in pixels (none: 4; 2 for `pad-crop-no-flip`). Short trainings want less.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", allow_negative_numbers = true))]
    pub crop_padding: Option<usize>,
    /// Smallest and largest area of the random-resized-crop.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_parser = parse_list::<f32, 2>, default_value = "0.08,1", value_name = "LIST", allow_hyphen_values = true))]
    pub rand_crop_scale: [f32; 2],
    /// Smallest and largest aspect ratio of the random-resized-crop.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_parser = parse_list::<f32, 2>, default_value = "0.75,1.3333333333333333", value_name = "LIST", allow_hyphen_values = true))]
    pub rand_crop_ratio: [f32; 2],
    /// Factor on pixels before mean and deviation.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", default_value_t = 1.0 / 255.0, allow_hyphen_values = true))]
    pub normalize_scale: f32,
    /// Mean per channel, after scaling.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_parser = parse_list::<f32, 3>, default_value = "0.485,0.456,0.406", value_name = "LIST", allow_hyphen_values = true))]
    pub normalize_mean: [f32; 3],
    /// Standard deviation per channel, after scaling.
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_parser = parse_list::<f32, 3>, default_value = "0.229,0.224,0.225", value_name = "LIST", allow_hyphen_values = true))]
    pub normalize_std: [f32; 3],
    /// Decode threads per worker (0: chosen from the cores).
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = "Data",
            default_value_t = 0,
            visible_alias = "dali-num-threads",
            allow_negative_numbers = true
        )
    )]
    pub data_threads: usize,
    /// Corrupt images tolerated (none: 0.1 % of the set, at least 1).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", allow_negative_numbers = true))]
    pub max_corrupt_images: Option<usize>,
    /// Allow classes that have images in one of `train/` and `val/` only, or in neither (their folder is empty).
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set))]
    pub allow_missing_classes: bool,
    /// Images of the `synthetic` source.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = "Data", default_value_t = 1024, allow_negative_numbers = true)
    )]
    pub synthetic_images: usize,
}

impl Default for DataSettings {
    fn default() -> Self {
        Self {
            image_root: "digits".into(),
            val_fraction: 0.0,
            batch_size: 256,
            global_batch_size: None,
            crop_size: 224,
            resize_short: 256,
            augmentation: Augmentation::Auto,
            crop_padding: None,
            rand_crop_scale: [0.08, 1.0],
            rand_crop_ratio: [0.75, 4.0 / 3.0],
            normalize_scale: 1.0 / 255.0,
            normalize_mean: [0.485, 0.456, 0.406],
            normalize_std: [0.229, 0.224, 0.225],
            data_threads: 0,
            max_corrupt_images: None,
            allow_missing_classes: false,
            synthetic_images: 1024,
        }
    }
}
