//! Foreign weights in.
