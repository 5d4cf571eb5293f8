//! ONNX: the standard's own types, and files of it as checked models.
//!
//! [`File::decode`] bounds what a file can make before anything of it is made, [`File::read`] turns it into a [`Model`]:
//! constants as numbers whatever they are stored as, nodes in the order in which they run, and everything that a model may
//! have and this reader does not take as [`Finding`]s, all at once.

mod construct;
mod model;
mod order;
mod tensor;
mod wire;

/// The messages of `onnx.proto`, as prost makes them of it: what the standard calls optional is an `Option`, which an
/// accessor of the field's name reads with the default.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

pub use model::{Attribute, File, Finding, Model, Node, Port, Size};
pub use tensor::{Constant, Numbers};

/// Whether bytes begin as an ONNX file does: with the version of its format, a small number, in the first field.
pub fn plausible(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=0x7f, ..])
}
