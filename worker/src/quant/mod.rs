//! Quantization: the single source of numerics, observers, placement.
