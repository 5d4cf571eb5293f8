//! INT8 inference: OpenVINO and ONNX Runtime on CPUs, behind one trait. No libtorch.

mod error;
mod latency;
mod model;
mod onnxruntime;
mod openvino;

pub use error::EngineError;
pub use latency::{Latency, measure};
pub use model::{ModelInfo, Preprocessing};

use std::path::Path;

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
#[value(rename_all = "lowercase")]
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
    /// Runs `batch_size` images `[b, C, H, W]` (FP32, normalised, channels first) to logits `[b, classes]`.
    fn infer(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError>;
}

/// Loads a file into a runtime for batches of `batch_size`, with `threads` threads (0: the runtime chooses).
pub fn load(
    kind: EngineKind,
    path: &Path,
    info: &ModelInfo,
    batch_size: usize,
    threads: usize,
) -> Result<Box<dyn Engine>, EngineError> {
    Ok(match kind {
        EngineKind::Openvino => Box::new(openvino::OpenVino::load(path, info, batch_size, threads)?),
        EngineKind::Onnxruntime => Box::new(onnxruntime::OnnxRuntime::load(path, info, batch_size, threads)?),
    })
}
