//! What becomes of a checkpoint's files when they are damaged at random: errors, and never a panic.

use super::testing::snapshot;
use super::{network, stored, tensors};
use std::path::Path;

#[path = "../../formats/tests/damage/mod.rs"]
mod damage;

#[test]
fn whatever_bytes_are_changed_nothing_panics_and_memory_stays_bounded() {
    let (path, whole) = (Path::new("x"), snapshot(1, 0));
    let weights = tensors::encode(&whole.model, path).unwrap();
    for (round, bytes) in damage::damaged(&weights) {
        if let Ok(state) = tensors::decode(&bytes, path) {
            let made: usize = state.values().map(|t| t.data.len()).sum();
            assert!(made <= bytes.len(), "round {round}: {made} elements of {} bytes", bytes.len());
        }
    }
    for (_, bytes) in damage::damaged(&stored::write(path, &whole.manifest).unwrap()) {
        let _ = stored::read(path, &bytes);
    }
    for (_, bytes) in damage::damaged(&network::encode(&whole.graph, path).unwrap()) {
        let _ = network::decode(&bytes, path, "0");
    }
}
