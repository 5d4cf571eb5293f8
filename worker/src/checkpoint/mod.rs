//! Checkpoints: the format, the atomic store, resuming.

mod state;

pub use state::{HostTensor, State};
