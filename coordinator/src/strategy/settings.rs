//! The part of the run's configuration that strategy depends on, read from the configuration every worker sends.

use super::StrategyError;
use serde::Deserialize;

/// Mixed precision asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Amp {
    /// FP32.
    Off,
    /// BF16 compute.
    Bf16,
    /// FP16 compute.
    Fp16,
}

/// Device asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// CUDA if every worker has it.
    Auto,
    /// CPU.
    Cpu,
    /// CUDA.
    Cuda,
}

/// Backend asked for by a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestBackend {
    /// None asked for: by device and number of workers.
    #[default]
    Auto,
    /// Gloo.
    Gloo,
    /// NCCL.
    Nccl,
}

/// Memory order asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataLayout {
    /// Channels last.
    Nhwc,
    /// Channels first.
    Nchw,
}

/// Runtime quantized for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// OpenVINO.
    Openvino,
    /// ONNX Runtime.
    Onnxruntime,
    /// TensorRT.
    Tensorrt,
}

/// How activation ranges are found and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observer {
    /// Moving average of the microbatches' absolute maxima.
    MovingAverage,
    /// Largest absolute value ever seen.
    Max,
    /// Percentile of calibration.
    Percentile,
    /// Smallest squared error in calibration.
    Mse,
    /// Smallest relative entropy in calibration.
    Entropy,
}

/// Settings by the names of their flags. Other keys of the configuration do not concern the coordinator; a key
/// missing here is an error, so that no default can differ from the worker's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobSettings {
    /// Images per microbatch.
    pub batch_size: u64,
    /// Images per step over all workers.
    pub global_batch_size: Option<u64>,
    /// Epochs in all.
    pub epochs: u64,
    /// Steps in all; 0: no limit.
    pub max_steps: u64,
    /// Seed of everything random.
    pub seed: u64,
    /// Mixed precision.
    pub amp: Amp,
    /// Loss scale.
    pub scale_loss: f64,
    /// Adjust the loss scale.
    pub use_dynamic_loss_scaling: bool,
    /// Memory order.
    pub data_layout: DataLayout,
    /// Quantization-aware training.
    pub qat: bool,
    /// Runtime quantized for.
    pub target: Target,
    /// Images for calibration.
    pub qat_calibration_images: u64,
    /// Part of the steps after which observers freeze.
    pub qat_freeze_observers: f64,
    /// Part of the steps after which BatchNorm statistics freeze.
    pub qat_freeze_bn: f64,
    /// Momentum of ranges.
    pub qat_observer_momentum: f64,
    /// Gradients pass where values were clipped.
    pub qat_pass_through: bool,
    /// Nodes left in floating point.
    pub qat_skip: Vec<String>,
    /// How ranges are found.
    pub qat_observer: Observer,
    /// Percentile, for that observer.
    pub qat_percentile: f64,
    /// Bits of weight codes.
    pub qat_weight_bits: u32,
    /// Ranges are learned.
    pub qat_learn_scales: bool,
    /// Images for BatchNorm's statistics when they freeze.
    pub qat_bn_images: u64,
    /// Part of the loss follows a teacher.
    pub qat_distill: bool,
    /// That part.
    pub qat_distill_weight: f64,
    /// Temperature.
    pub qat_distill_temperature: f64,
    /// Device.
    pub device: DeviceChoice,
    /// Backend, in tests.
    #[serde(default)]
    pub test_backend: TestBackend,
    /// Compute threads per worker; 0: chosen.
    pub threads: u32,
    /// Gradient bucket in MiB.
    pub bucket_mib: f64,
    /// Only deterministic kernels.
    #[serde(default)]
    pub deterministic: bool,
}

impl JobSettings {
    /// Reads them from the configuration's JSON.
    pub fn parse(config_json: &str) -> Result<Self, StrategyError> {
        serde_json::from_str(config_json).map_err(|e| StrategyError::Config(e.to_string()))
    }
}
