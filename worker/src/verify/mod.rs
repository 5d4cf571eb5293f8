//! The training graph against the deployed engine: whole, on the same images, and layer by layer, fed the same inputs.

mod codes;
mod cut;
mod html;
mod kernels;
mod layers;
mod report;
mod tally;
mod values;

pub use codes::Codes;
pub use cut::{Cut, CutError, Fed, LOGITS, cuts};
pub use html::html;
pub use kernels::{Kernels, sort as sort_kernels};
pub use layers::{Layer, LayerError, Layers};
pub use report::{LayerReport, Limits, Report};
pub use tally::Tally;
pub use values::values;
