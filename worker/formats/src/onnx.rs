//! ONNX: the standard's own types.

mod construct;

/// The messages of `onnx.proto`, as prost makes them of it: what the standard calls optional is an `Option`, which an
/// accessor of the field's name reads with the default.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}
