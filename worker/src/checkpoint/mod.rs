//! Checkpoints: the format, the atomic store, finding and loading.

mod admission;
mod atomic;
mod error;
mod folder;
mod identity;
mod leftovers;
mod lock;
mod manifest;
mod matching;
mod origin;
mod state;
mod store;
mod stored;
mod tensors;
mod trial;

pub use atomic::write_atomic;
pub use error::CheckpointError;
pub use folder::{OwnedFolder, RunFolder, free_name, save_for};
pub use identity::{RunIdentity, date};
pub use lock::holder;
pub use manifest::{FORMAT, FileEntry, LossScaleState, Manifest, Position, QatState};
pub use matching::{Mismatch, match_weights};
pub use origin::Origin;
pub use state::{HostTensor, State, range_key};
pub use store::{
    Furthest, Snapshot, Which, find, furthest, load, load_manifest, load_weights, manifest_hash, root_of,
    save,
};
