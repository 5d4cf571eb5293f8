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

/// The tensors that hold numbers which are not finite, with how many of how many those are.
pub fn not_finite(state: &State) -> Vec<String> {
    let told = |(name, tensor): (&String, &HostTensor)| {
        let bad = tensor.data.iter().filter(|x| !x.is_finite()).count();
        (bad > 0).then(|| format!("{name} ({bad} of {})", tensor.data.len()))
    };
    state.iter().filter_map(told).collect()
}

/// Name of a quantizer's range in a [`State`].
pub fn range_key(quantizer: &str) -> String {
    format!("quant.{quantizer}.absmax")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_with_numbers_that_are_not_finite_are_named_with_how_many() {
        let of = |data: &[f32]| HostTensor { shape: vec![data.len()], data: data.to_vec() };
        let state = State::from([
            ("a".to_string(), of(&[1.0, f32::NAN, f32::INFINITY])),
            ("b".to_string(), of(&[0.0, f32::MAX])),
            ("c".to_string(), of(&[f32::NEG_INFINITY])),
        ]);
        assert_eq!(not_finite(&state), ["a (2 of 3)", "c (1 of 1)"]);
    }
}
