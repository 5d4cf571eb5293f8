//! Images to batches: sources, a deterministic sampler, decoding, augmentation, a loader that reads ahead.

mod augment;
mod config;
mod dataset;
mod digits;
mod error;
mod folder;
mod loader;
mod pipeline;
pub mod rng;
mod sampler;
mod synthetic;

pub use augment::Geometry;
pub use config::DataConfig;
pub use dataset::{Dataset, Split};
pub use error::DataError;
pub use loader::{EvalLoader, TrainLoader};
pub use pipeline::Batch;
pub use sampler::{Sharding, permutation};
