//! Collectives over ranks behind one trait: Gloo, NCCL, local, faulty.

mod rendezvous;

pub use rendezvous::{RendezvousStore, StoreError};
