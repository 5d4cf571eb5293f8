//! The distributed optimizer.
