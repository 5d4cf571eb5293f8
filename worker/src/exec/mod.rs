//! Graph to libtorch: forward with autograd.
