//! Octrain.
