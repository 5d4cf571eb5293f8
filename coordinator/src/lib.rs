//! Octrain's coordinator.
