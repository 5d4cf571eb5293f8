//! A trained network as an ONNX file: BatchNorm folded exactly, one INT8 Q/DQ profile per runtime. No libtorch: a
//! pure function of the pass list's graph and the checkpoint's numbers.

mod emit;
mod error;
mod float;
mod fold;
mod metadata;
mod profile;
mod qdq;
mod table;
mod writer;

pub use emit::emit;
pub use error::ExportError;
pub use float::FloatType;
pub use fold::{FoldedWeights, fold};
pub use metadata::{About, Task, TaskError, metadata};
pub use octrain_formats::onnx::proto as onnx;
pub use profile::Profile;
pub use table::{ScaleEntry, scale_table};
pub use writer::{Exported, INPUT, OUTPUT, Options};
