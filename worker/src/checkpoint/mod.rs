//! Checkpoints: the format, the atomic store, finding and loading.

mod atomic;
mod error;
mod manifest;
mod matching;
mod state;
mod store;
mod tensors;

pub use atomic::write_atomic;
pub use error::CheckpointError;
pub use manifest::{FORMAT, FileEntry, LossScaleState, Manifest, Position, QatState};
pub use matching::{Mismatch, match_weights};
pub use state::{HostTensor, State, range_key};
pub use store::{Snapshot, Which, find, load, load_manifest, load_weights, save};
