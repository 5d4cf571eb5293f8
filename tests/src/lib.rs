//! Shared means for the tests that look at Octrain from outside.

mod binary;
pub mod images;
pub mod manifest;
pub mod policy;
mod python;
pub mod random;
pub mod run;
mod skip;
pub mod stand_in;
pub mod wire;

pub use binary::binary;
pub use python::{Python, python};
pub use skip::{adds_exactly, skipped, verified_as_far_as_sums_are_exact};
