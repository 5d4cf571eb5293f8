//! The tensors of a network on the host, by name.

use std::collections::BTreeMap;

/// A tensor on the host, FP32, row-major.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostTensor {
    /// Sizes of the dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<f32>,
}

/// Parameters and BatchNorm buffers by their names in the graph (`layer1.0.conv1.weight`, `bn1.running_mean`),
/// activation ranges as `quant.<quantizer>.absmax` of shape `[1]`.
pub type State = BTreeMap<String, HostTensor>;

/// Name of a quantizer's range in a [`State`].
pub fn range_key(quantizer: &str) -> String {
    format!("quant.{quantizer}.absmax")
}
