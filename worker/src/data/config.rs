//! What a loader needs to know.

use super::{Geometry, Sharding};

/// Settings of a loader.
#[derive(Debug, Clone, PartialEq)]
pub struct DataConfig {
    /// How images become tensors.
    pub geometry: Geometry,
    /// Microbatches and ranks.
    pub sharding: Sharding,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Decode threads.
    pub threads: usize,
    /// Corrupt images tolerated; none: 0.1 % of the set, at least 1.
    pub max_corrupt: Option<usize>,
}

impl DataConfig {
    /// Corrupt images tolerated in a set of `images`.
    pub fn corrupt_limit(&self, images: usize) -> usize {
        self.max_corrupt.unwrap_or((images / 1000).max(1))
    }
}
