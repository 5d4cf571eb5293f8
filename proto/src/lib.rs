//! Octrain protocol.
