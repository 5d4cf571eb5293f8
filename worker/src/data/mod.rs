//! Images to batches: sources, a deterministic sampler, decoding, augmentation, a loader that reads ahead.

mod augment;
mod config;
mod dataset;
mod digits;
mod error;
mod files;
mod folder;
mod found;
mod held_out;
mod loader;
mod pipeline;
mod preprocessing;
pub mod rng;
mod sampler;
mod source;
mod synthetic;
mod wanted;

pub use augment::Geometry;
pub use config::DataConfig;
pub use dataset::Dataset;
pub use error::DataError;
pub use files::{ImageFiles, read_image};
pub use found::Found;
pub(crate) use found::listed;
pub use image::RgbImage;
pub use loader::{EvalLoader, TrainLoader};
pub use pipeline::{Batch, Uploading};
pub use preprocessing::Preprocessing;
pub use sampler::{Sharding, permutation};
pub use source::{Broken, Images, Split};
pub use wanted::{Names, Wanted};
