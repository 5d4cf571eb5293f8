//! Octrain: distributed training of vision networks with quantization-aware training in the optimizer.
//!
//! Someone brings a network, a data set and a loss, and sets one field: [`strategy::Strategy::qat`]. Passes, observers,
//! schedules and what is written for a runtime follow from it.
//!
//! ```no_run
//! use octrain::collective::Local;
//! use octrain::export::Profile;
//! use octrain::optim::{CrossEntropy, DistributedOptimizer, Microbatch, Sgd};
//! use octrain::strategy::{Amp, Qat, Strategy};
//! use octrain::models;
//! use tch::{Device, Kind, Tensor};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let network = models::build("ResNet20", [3, 32, 32], 10)?;
//!     let strategy = Strategy { amp: Amp::Bf16, qat: Some(Qat::default()), ..Strategy::default() };
//!     let mut program = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local))
//!         .minimize(network, CrossEntropy { label_smoothing: 0.1 })?;
//!
//!     let images = Tensor::randn([8, 3, 32, 32], (Kind::Float, Device::Cpu));
//!     let labels = Tensor::randint(10, [8], (Kind::Int64, Device::Cpu));
//!     let first = program.step(&[Microbatch { images: &images, labels: &labels }])?;
//!     let second = program.step(&[Microbatch { images: &images, labels: &labels }])?;
//!     println!("loss {:.3}, then {:.3}", first.loss, second.loss);
//!     program.export(Profile::Openvino, "int8.onnx")?;
//!     Ok(())
//! }
//! ```
//!
//! A crate that depends on this one needs to know where libtorch is: `scripts/setup.sh --crate FOLDER` writes it into the
//! crate's `.cargo/config.toml`. More is in `examples/`: a network and data of one's own, a pass, an observer, fine-tuning
//! from torchvision's weights, and two processes without a coordinator.
//!
//! What can be changed: update rule ([`optim::UpdateRule`]), loss ([`optim::Loss`]), learning rate
//! ([`optim::schedule::LearningRate`]), observer ([`quant::observer::RangeObserver`]), passes ([`passes::GraphPass`]),
//! collective ([`collective::Collective`]), data ([`data::Images`]).
//!
//! # Features
//!
//! `cli` (default) is the binary; without default features there is no clap, no engine and no tonic. `engines` runs
//! exported files in OpenVINO and ONNX Runtime; `session` trains as a member of a job that a coordinator plans.

// They panic when the reader has gone; `metrics::say!` and `metrics::print` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "cli")]
pub mod analyze;
pub mod checkpoint;
#[cfg(feature = "cli")]
pub mod cli;
pub mod collective;
pub mod config;
pub mod data;
#[cfg(feature = "cli")]
pub mod doctor;
#[cfg(feature = "engines")]
pub mod engine;
pub mod exec;
pub mod export;
pub mod import;
#[cfg(feature = "session")]
pub mod launcher;
#[cfg(feature = "session")]
pub mod metrics;
pub mod native;
pub mod optim;
#[cfg(feature = "cli")]
pub mod page;
#[cfg(feature = "session")]
pub mod session;
#[cfg(feature = "session")]
pub mod trainer;
#[cfg(feature = "cli")]
pub mod verify;

pub use octrain_core::{graph, models, passes, quant, strategy};
