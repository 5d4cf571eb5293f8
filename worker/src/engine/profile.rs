//! Which kernels an engine runs a network with, by its own account.

use super::{EngineError, EngineKind, ModelInfo, Port, onnxruntime, openvino};
use std::path::Path;

/// In what a node computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Integers of 8 bits.
    Int8,
    /// Floating point of any width.
    Float,
    /// Neither: it moves or converts values.
    Other,
}

/// A node as an engine runs it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct NodeProfile {
    /// The engine's name of it; it begins with the name of the convolution, if it holds one.
    pub name: String,
    /// The engine's name of the operation.
    pub op: String,
    /// The kernel, where the engine tells.
    pub kernel: String,
    /// In what it computes.
    pub precision: Precision,
    /// Milliseconds of one run, where the engine tells.
    pub milliseconds: Option<f64>,
}

/// Operations that multiply by weights, in ONNX's, ONNX Runtime's and OpenVINO's words. Their INT8 forms among them.
const LAYERS: [&str; 10] = [
    "Conv",
    "FusedConv",
    "NhwcFusedConv",
    "ConvTranspose",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "QLinearConv",
    "QLinearMatMul",
];

/// Whether an operation, in those words, is a convolution or a matrix product.
pub(super) fn computes_layer(op: &str) -> bool {
    let more = ["QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"];
    let openvino = ["Convolution", "GroupConvolution", "Deconvolution", "FullyConnected"];
    LAYERS.contains(&op) || more.contains(&op) || openvino.iter().any(|o| op.starts_with(o))
}

impl NodeProfile {
    /// Whether it is a convolution or a matrix product, whatever it computes in.
    pub fn is_layer(&self) -> bool {
        computes_layer(&self.op)
    }

    /// Whether it is a convolution or a matrix product that was not run in INT8.
    pub fn is_float_layer(&self) -> bool {
        self.is_layer() && self.precision != Precision::Int8
    }
}

/// Profiles a file; see [`profile_network`].
pub fn profile(
    kind: EngineKind,
    path: &Path,
    info: &ModelInfo,
    batch_size: usize,
) -> Result<Vec<NodeProfile>, EngineError> {
    profile_network(kind, &super::read(path)?, &[info.port(batch_size)])
}

/// The nodes of a network as `kind` runs it: OpenVINO's are those that ran on zeros, with times, ONNX Runtime's those
/// of the network it has rewritten for itself.
pub fn profile_network(
    kind: EngineKind,
    network: &[u8],
    inputs: &[Port],
) -> Result<Vec<NodeProfile>, EngineError> {
    Ok(match kind {
        EngineKind::Openvino => openvino::executed(network, inputs)?
            .into_iter()
            .map(|n| NodeProfile {
                name: n.name,
                precision: openvino_precision(&n.kernel),
                op: n.kind,
                kernel: n.kernel,
                milliseconds: Some(n.micros as f64 / 1000.0),
            })
            .collect(),
        EngineKind::Onnxruntime => onnxruntime::optimized(network)?
            .into_iter()
            .map(|n| NodeProfile {
                name: n.name().into(),
                precision: onnxruntime_precision(n.op_type()),
                kernel: n.op_type().into(),
                op: n.op_type().into(),
                milliseconds: None,
            })
            .collect(),
    })
}

/// The kernel's last word is the type of what it reads: `brgconv_avx512_I8`, `jit_avx512_f32`.
fn openvino_precision(kernel: &str) -> Precision {
    match kernel.rsplit('_').next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "i8" | "u8" => Precision::Int8,
        "f32" | "fp32" | "f16" | "fp16" | "bf16" | "f64" => Precision::Float,
        _ => Precision::Other,
    }
}

fn onnxruntime_precision(op: &str) -> Precision {
    match op {
        "QuantizeLinear" | "DequantizeLinear" | "Cast" | "Transpose" | "Reshape" | "Flatten" | "Identity"
        | "ReorderInput" | "ReorderOutput" => Precision::Other,
        "ConvInteger" | "MatMulInteger" | "MatMulIntegerToFloat" => Precision::Int8,
        q if q.starts_with("QLinear") || q.starts_with("QGemm") || q.starts_with("QAttention") => {
            Precision::Int8
        }
        _ => Precision::Float,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, precision: Precision) -> NodeProfile {
        NodeProfile { name: "x".into(), op: op.into(), kernel: String::new(), precision, milliseconds: None }
    }

    #[test]
    fn kernels_tell_what_they_compute_in() {
        use Precision::{Float, Int8, Other};
        let kernels = ["brgconv_avx512_I8", "jit_avx2_FP32", "brgemm_avx512_i8", "jit_avx512_f32", "unknown"];
        assert_eq!(kernels.map(openvino_precision), [Int8, Float, Int8, Float, Other]);
        let ops = ["QLinearConv", "Conv", "QGemm", "FusedConv", "QuantizeLinear", "DynamicQuantizeMatMul"];
        assert_eq!(ops.map(onnxruntime_precision), [Int8, Float, Int8, Float, Other, Float]);
    }

    #[test]
    fn a_layer_whose_kernel_is_not_known_to_be_integer_counts_as_float() {
        let found = |op, precision| node(op, precision).is_float_layer();
        assert!(found("Convolution", Precision::Other) && found("FullyConnected", Precision::Float));
        assert!(found("FusedConv", Precision::Float) && found("Gemm", Precision::Float));
        assert!(!found("FullyConnectedQuantizedLegacy", Precision::Int8) && !found("QGemm", Precision::Int8));
        assert!(!found("Relu", Precision::Float) && !found("Subgraph", Precision::Float));
    }
}
