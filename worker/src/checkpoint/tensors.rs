//! [`State`] as safetensors.

use super::{CheckpointError, HostTensor, State};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::Path;

/// FP32 tensors as the bytes of a safetensors file.
pub(super) fn encode(state: &State, path: &Path) -> Result<Vec<u8>, CheckpointError> {
    let bytes: Vec<(&String, &HostTensor, Vec<u8>)> =
        state.iter().map(|(n, t)| (n, t, t.data.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
    let views = bytes
        .iter()
        .map(|(n, t, b)| Ok((n.as_str(), TensorView::new(Dtype::F32, t.shape.clone(), b)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let damaged = |e| CheckpointError::damaged(path, format!("a tensor cannot be written: {e}"));
    safetensors::serialize(views.map_err(damaged)?, None).map_err(damaged)
}

/// Whether a file begins as safetensors do, whole or cut short: with the length of a header in JSON, and that header. One
/// that is too short to tell is taken for something else.
pub(super) fn plausible(bytes: &[u8]) -> bool {
    const LONGEST_HEADER: u64 = 100_000_000;
    let Some((length, header)) = bytes.split_first_chunk() else { return false };
    (2..=LONGEST_HEADER).contains(&u64::from_le_bytes(*length)) && header.first() == Some(&b'{')
}

/// FP32, FP16 and BF16 tensors of a safetensors file, as FP32; others are an error that names them.
pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<State, CheckpointError> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| CheckpointError::damaged(path, e))?;
    let mut state = State::new();
    for (name, view) in file.tensors() {
        let raw = view.data();
        let data: Vec<f32> = match view.dtype() {
            Dtype::F32 => raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => raw.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => raw.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            // torchvision's `num_batches_tracked`: a counter nothing depends on.
            Dtype::I64 if name.ends_with("num_batches_tracked") => continue,
            other => {
                let place = path.display();
                let why = format!(
                    "tensor `{name}` has type {other:?}; make a file of FP32 from it with Python: import safetensors.torch as s; \
                     s.save_file({{k: v.float() for k, v in s.load_file('{place}').items() if v.is_floating_point()}}, \
                     'weights.safetensors'), and take that file"
                );
                let wanted = "a file of F32, F16 and BF16 tensors";
                return Err(CheckpointError::Foreign { path: path.into(), wanted, why });
            }
        };
        state.insert(name, HostTensor { shape: view.shape().to_vec(), data });
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_and_truncation_is_seen() {
        let tensor = HostTensor { shape: vec![2, 2], data: vec![1.0, -0.0, f32::MIN_POSITIVE, 4.5] };
        let state = State::from([("a.weight".to_string(), tensor)]);
        let path = Path::new("x.safetensors");
        let bytes = encode(&state, path).unwrap();
        assert_eq!(decode(&bytes, path).unwrap(), state);
        for cut in [0, 4, bytes.len() / 2, bytes.len() - 1] {
            assert!(matches!(decode(&bytes[..cut], path), Err(CheckpointError::Damaged { .. })), "{cut}");
        }
    }

    #[test]
    fn a_type_that_is_not_read_is_no_damage() {
        let bytes = 1.5f64.to_le_bytes();
        let of = |name: &'static str, dtype| {
            let view = TensorView::new(dtype, vec![1], &bytes).unwrap();
            safetensors::serialize([(name, view)], None).unwrap()
        };
        for (dtype, named) in [(Dtype::F64, "F64"), (Dtype::I64, "I64")] {
            let e = decode(&of("fc.weight", dtype), Path::new("w.safetensors")).unwrap_err();
            assert!(matches!(e, CheckpointError::Foreign { .. }) && e.is_configuration(), "{e}");
            for part in ["w.safetensors", "`fc.weight`", named, "v.float()", "take that file"] {
                assert!(e.to_string().contains(part), "{part} in {e}");
            }
        }
        assert!(decode(&of("bn.num_batches_tracked", Dtype::I64), Path::new("w")).unwrap().is_empty());
    }
}
