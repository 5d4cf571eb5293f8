//! Which layers a network's quantization hurts, and why: every layer quantized alone, ranges and histograms of what is
//! quantized, dead channels, and the fewest layers to leave in floating point for a budget of accuracy.
//!
//! Every network that is measured comes out of the same list of passes as the one that is trained and exported; a layer
//! alone is the network in which `--qat-skip` names all others.

mod activations;
mod calibrate;
mod error;
mod finite;
mod html;
mod placement;
mod proposal;
mod report;
mod reported;
mod spread;
mod sqnr;
mod survey;
mod weights;

pub use activations::Activation;
pub use error::AnalyzeError;
pub use html::html;
pub use placement::{Layer, Placement};
pub use proposal::{Proposal, propose};
pub use report::{LayerFigures, Ranges, Report, Subject};
pub use spread::Spread;
pub use sqnr::Sqnr;
pub use survey::{Alone, Hits, Network, Survey};
pub use weights::WeightFigures;
