//! Quantization: the single source of numerics, observers and placement rules.

pub mod scheme;
