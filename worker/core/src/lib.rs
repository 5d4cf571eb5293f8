//! What Octrain knows and decides without a tensor: the strategy of a training and what follows from it, graphs and
//! the passes that rewrite them, the networks, and the numerics of quantization.
//!
//! Everything here is plain data and pure functions: no libtorch, no I/O, no network. The coordinator decides with the
//! very functions that the trainer, export, verification and users of the library call.
//!
//! ```
//! use octrain_core::{graph::NetworkFacts, models, passes, strategy::{Purpose, Qat, Strategy}};
//!
//! let network = models::build("ResNet20", [3, 32, 32], 10)?;
//! let strategy = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
//! for d in passes::decide(&strategy, &NetworkFacts::of(&network), Purpose::Train) {
//!     println!("{}: {} ({})", d.pass, d.on, d.reason);
//! }
//! let trained = passes::run(network, &strategy, Purpose::Train)?;
//! assert_eq!(trained.quantizers().filter(|(_, q)| q.active).count(), 22);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod graph;
pub mod models;
pub mod passes;
pub mod quant;
pub mod strategy;
