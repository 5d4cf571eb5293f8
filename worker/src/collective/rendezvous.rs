//! Where ranks find each other before they can communicate.

use super::Abort;
use std::time::Duration;

/// A key-value store all ranks of a job share. Keys belong to the job's current generation.
pub trait RendezvousStore: Send + Sync {
    /// Sets a key, replacing what it held.
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;
    /// Waits until the key exists, at most `timeout` or until `abort` trips, and returns its value.
    fn get(&self, key: &str, timeout: Duration, abort: &Abort) -> Result<Vec<u8>, StoreError>;
    /// Adds to a decimal counter (absent: 0) and returns the sum.
    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError>;
    /// Whether all keys exist.
    fn check(&self, keys: &[String]) -> Result<bool, StoreError>;
    /// Removes a key; whether it was there.
    fn delete(&self, key: &str) -> Result<bool, StoreError>;
}

/// Why the store does not give what was asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The key did not come.
    #[error("rendezvous key `{key}` did not appear within {} s: a worker has not come that far", waited.as_secs_f32())]
    Timeout {
        /// The key.
        key: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The job is over.
    #[error("the job was ended: {0}")]
    Ended(String),
    /// Anything else; the text says what to do.
    #[error("{0}")]
    Failed(String),
}
