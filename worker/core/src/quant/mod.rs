//! Quantization: the single source of numerics, observers and placement rules.

pub mod fold;
pub mod histogram;
pub mod observer;
pub mod placement;
pub mod scheme;
