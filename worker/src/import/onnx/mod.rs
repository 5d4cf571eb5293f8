//! Networks of ONNX files, in floating point.
//!
//! [`octrain_formats::onnx`] reads a file as a model; the steps here make a graph of it ([`network()`]), each a pure function:
//! constants are folded, what exporters write of one operator is found and put together again, and every node is translated
//! with shapes inferred on the way. What is not taken is found everywhere before anything is said.
//!
//! The batch is the first dimension of an image and stays open, whatever size the file gives it; it may stand elsewhere in
//! between (`value`). BatchNorm is kept where the file has it. Where an exporter has folded it into a convolution, that keeps
//! its weights and its bias: statistics that would make a BatchNorm of them again are in no file, and made-up ones would
//! change what training computes.

mod attributes;
mod counts;
mod elementwise;
mod file;
mod fold;
mod graph;
mod layers;
mod moves;
mod net;
mod network;
mod patterns;
mod pools;
mod rearrange;
mod strides;
#[cfg(test)]
mod tests;
mod translate;
mod value;

pub(super) use file::read;
pub use network::{Task, Translated, network};
