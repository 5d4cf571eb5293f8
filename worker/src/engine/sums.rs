//! Whether this CPU adds up products of 8-bit codes exactly.

use octrain_formats::onnx::proto::GraphProto;
use octrain_formats::onnx::proto::tensor_proto::DataType;

/// The largest weight code for which two products with codes up to 255 fit into 16 bits.
const FITS: u8 = 64;

/// Whether runtimes add up products of 8-bit codes exactly here. Without 8-bit dot products (VNNI) an x86 CPU adds two of them in
/// 16 bits, which saturate.
pub fn adds_exactly() -> bool {
    #[cfg(target_arch = "x86_64")]
    let exact = is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    let exact = true;
    exact
}

/// The largest magnitude of the codes in a file's 8-bit weights; 0 where it has none.
pub(super) fn largest_weight_code(graph: &GraphProto) -> u8 {
    let weights =
        graph.initializer.iter().filter(|t| t.data_type() == i32::from(DataType::Int8) && t.dims.len() > 1);
    weights.flat_map(|t| t.raw_data().iter().map(|&code| (code as i8).unsigned_abs())).max().unwrap_or(0)
}

/// What to know of a file with such weights on a CPU that adds `exact`ly or does not; none where its sums cannot saturate. A reduced
/// range of what stands behind a ReLU does not help all of them: signed codes are moved by 128, in the file or by the engine.
pub(super) fn note(largest: u8, exact: bool) -> Option<String> {
    (!exact && largest > FITS).then(|| {
        format!(
            "this CPU has no 8-bit dot products (VNNI) and adds two products of codes in 16 bits, which saturate: results can be far from those of training; take a CPU with VNNI, or train with weights of 7 bits (--qat-weight-bits 7; the file has codes up to {largest})"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use octrain_formats::onnx::proto::TensorProto;

    #[test]
    fn sums_saturate_with_large_codes_of_weights_where_nothing_adds_exactly() {
        let weights = |codes: &[i8]| GraphProto {
            initializer: vec![
                TensorProto::bytes("w", &[1, codes.len()], codes),
                TensorProto::bytes("zero_point", &[1], &[-128]),
                TensorProto::floats("b", &[1, 1], &[1e9]),
            ],
            ..GraphProto::default()
        };
        assert_eq!(largest_weight_code(&weights(&[3, -90, 7])), 90);
        assert_eq!(largest_weight_code(&GraphProto::default()), 0);
        assert!(note(127, false).unwrap().contains("codes up to 127") && note(65, false).is_some());
        assert_eq!((note(64, false), note(127, true)), (None, None));
    }
}
