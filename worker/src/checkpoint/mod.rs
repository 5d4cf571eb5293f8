//! Checkpoints: the format, the atomic store, finding and loading.
//!
//! A checkpoint is a folder that says everything of a network: `graph.json` (the network before any pass),
//! `model.safetensors` (its weights by torchvision's names, statistics and ranges), `optimizer.safetensors` (momentum), where weights are averaged `unaveraged.safetensors` (those that training goes on with) and
//! `manifest.json` (classes, preprocessing, strategy, where it comes from, where its run stands; see [`Manifest`]).

mod admission;
mod atomic;
mod consistent;
#[cfg(test)]
mod damaged;
mod difference;
mod error;
mod estate;
mod folder;
mod foreign;
mod identity;
mod leftovers;
mod lock;
mod manifest;
mod matching;
mod network;
mod origin;
mod state;
mod store;
mod stored;
mod tensors;
#[cfg(test)]
pub(crate) mod testing;
mod trial;

pub use atomic::write_atomic;
pub use difference::{Difference, Made, Part, Same, difference, recipe};
pub use error::CheckpointError;
pub use estate::{Estate, has_gone_on, save_for};
pub use folder::{OwnedFolder, RunFolder, free_name};
pub use foreign::WEIGHTS;
pub use identity::{RunIdentity, date};
pub use lock::holder;
pub use manifest::{FORMAT, FileEntry, LossScaleState, Manifest, Position, QatState};
pub use matching::{Mismatch, match_weights};
pub use network::load_graph;
pub use origin::{Origin, StartedFrom};
pub use state::{HostTensor, State, not_finite, range_key};
pub(crate) use store::sha256;
pub use store::{
    Furthest, Pretrained, Snapshot, Which, find, furthest, load, load_manifest, load_weights, manifest_hash,
    pretrained, root_of, save,
};
