//! What a loader needs to know.

use super::{DataError, Geometry, Sharding};

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
    /// Whether a loader can use these settings.
    ///
    /// # Errors
    /// On the first that it cannot, by its field's name.
    pub fn check(&self) -> Result<(), DataError> {
        let Sharding { rank, world, microbatches, batch } = self.sharding;
        let refused = |why: String| Err(DataError::Settings(why));
        for (what, size) in [("world", world), ("microbatches", microbatches), ("batch", batch)] {
            if size == 0 {
                return refused(format!("sharding.{what} is 0; there is at least 1"));
            }
        }
        if rank >= world {
            return refused(format!("sharding.rank is {rank}; it counts from 0 to below world, {world}"));
        }
        self.geometry.check()
    }

    /// Corrupt images tolerated in a set of `images`.
    pub fn corrupt_limit(&self, images: usize) -> usize {
        self.max_corrupt.unwrap_or((images / 1000).max(1))
    }
}
