//! Shared means for the tests that look at Octrain from outside.

pub mod manifest;
pub mod policy;
