//! INT8 inference: OpenVINO and ONNX Runtime on CPUs, behind one trait. No libtorch.

mod error;
mod latency;
mod model;
mod onnxruntime;
mod openvino;
mod origin;
mod output;
mod profile;
mod sums;

pub use error::EngineError;
pub use latency::{Latency, measure, median};
pub use model::{ModelInfo, Told};
pub use output::{best, predicted, probabilities};
pub use profile::{NodeProfile, Precision, profile, profile_network};
pub use sums::adds_exactly;

use std::path::Path;

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "cli", value(rename_all = "lowercase"))]
pub enum EngineKind {
    /// OpenVINO's CPU plugin.
    Openvino,
    /// ONNX Runtime's CPU provider.
    Onnxruntime,
}

impl EngineKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Openvino => "openvino",
            EngineKind::Onnxruntime => "onnxruntime",
        }
    }
}

/// A network in a runtime, ready to run batches of one fixed size.
pub trait Engine {
    /// Images of a batch.
    fn batch_size(&self) -> usize;
    /// Runs FP32 inputs, in the order in which the network was loaded, to its first output, FP32.
    fn run(&mut self, inputs: &[&[f32]]) -> Result<Vec<f32>, EngineError>;
    /// Runs `batch_size` images `[b, C, H, W]` (FP32, normalised, channels first) to logits `[b, classes]`.
    fn infer(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        self.run(&[images])
    }
}

/// An FP32 input of a network: its name and its shape, batch included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name in the file.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
}

impl Port {
    /// Its number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether `inputs` are what the network was loaded for.
fn check_inputs(ports: &[Port], inputs: &[&[f32]]) -> Result<(), EngineError> {
    let wanted: usize = ports.iter().map(Port::len).sum();
    let got = inputs.iter().map(|i| i.len()).sum();
    let same = ports.len() == inputs.len() && ports.iter().zip(inputs).all(|(p, i)| p.len() == i.len());
    if same { Ok(()) } else { Err(EngineError::Input { wanted, got }) }
}

/// Whether a batch's outputs are the scores of so many classes each.
pub fn check_scores(outputs: &[f32], batch: usize, classes: usize) -> Result<(), EngineError> {
    match outputs.len() == batch * classes {
        true => Ok(()),
        false => Err(EngineError::Output { wanted: batch * classes, got: outputs.len() }),
    }
}

/// Loads a file into a runtime for batches of `batch_size`, with `threads` threads (0: the runtime chooses).
pub fn load(
    kind: EngineKind,
    path: &Path,
    info: &ModelInfo,
    batch_size: usize,
    threads: usize,
) -> Result<Box<dyn Engine>, EngineError> {
    load_network(kind, &read(path)?, vec![info.port(batch_size)], threads)
}

/// Loads an ONNX network of several inputs from memory; the first dimension of the first input is the batch.
pub fn load_network(
    kind: EngineKind,
    network: &[u8],
    inputs: Vec<Port>,
    threads: usize,
) -> Result<Box<dyn Engine>, EngineError> {
    Ok(match kind {
        EngineKind::Openvino => Box::new(openvino::OpenVino::load(network, inputs, threads)?),
        EngineKind::Onnxruntime => Box::new(onnxruntime::OnnxRuntime::load(network, inputs, threads)?),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, EngineError> {
    std::fs::read(path).map_err(|e| EngineError::File { path: path.into(), why: e.to_string() })
}
