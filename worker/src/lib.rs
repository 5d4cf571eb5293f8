//! Octrain: distributed training of convolutional networks with quantization-aware training in the optimizer.

// They panic when the reader has gone; `metrics::say!` and `metrics::print` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod analyze;
pub mod checkpoint;
pub mod cli;
pub mod collective;
pub mod config;
pub mod data;
pub mod doctor;
pub mod engine;
pub mod exec;
pub mod export;
pub mod launcher;
pub mod metrics;
pub mod native;
pub mod optim;
pub mod page;
pub mod session;
pub mod trainer;
pub mod verify;

pub use octrain_core::{graph, models, passes, quant, strategy};
