//! Weights in a file that is no checkpoint: safetensors, or what PyTorch's `torch.save` writes.

use super::{CheckpointError, HostTensor, State, tensors};
use octrain_formats::{FormatError, pytorch};
use std::path::Path;

/// What a file is wanted to be that weights are taken of.
pub const WEIGHTS: &str = "a file of weights";

/// Counters of BatchNorms, on which nothing depends that a network computes.
const COUNTER: &str = "num_batches_tracked";

/// The floating-point tensors of a file's bytes, by the names it gives them, as FP32; `path` is for messages.
///
/// # Errors
/// When the bytes are of another format, damaged, or hold tensors of other types.
pub(super) fn weights(bytes: &[u8], path: &Path) -> Result<State, CheckpointError> {
    if pytorch::plausible(bytes) {
        return of_pytorch(bytes, path);
    }
    if !tensors::plausible(bytes) {
        return Err(CheckpointError::Foreign {
            path: path.into(),
            wanted: WEIGHTS,
            why: "it begins neither as safetensors nor as what torch.save writes; give one of these, or a checkpoint folder (a network of an ONNX file is imported first, by `octrain import`)"
                .into(),
        });
    }
    tensors::decode(bytes, path).map_err(|e| match e {
        CheckpointError::Damaged { path, why } => CheckpointError::Broken { path, why },
        e => e,
    })
}

fn of_pytorch(bytes: &[u8], path: &Path) -> Result<State, CheckpointError> {
    let read = pytorch::read(bytes).map_err(|e| match e {
        FormatError::Damaged(why) => CheckpointError::Broken { path: path.into(), why: why.to_string() },
        FormatError::Foreign { wanted, found } => {
            CheckpointError::Foreign { path: path.into(), wanted, why: found }
        }
    })?;
    if let Some(under) = &read.under {
        tracing::info!("{}: the weights are those under `{under}`", path.display());
    }
    if !read.left_out.is_empty() {
        tracing::warn!("{}: left out, being no tensors: {}", path.display(), read.left_out.join(", "));
    }
    let mut state = State::new();
    for (name, tensor) in read.tensors {
        match tensor.element.is_float() {
            true => drop(state.insert(name, HostTensor { shape: tensor.shape, data: tensor.data })),
            false if name.ends_with(COUNTER) => {}
            false => {
                return Err(CheckpointError::Foreign {
                    path: path.into(),
                    wanted: "a state dict of floating-point tensors",
                    why: format!(
                        "`{name}` has elements of type {:?}; leave it out of what is saved",
                        tensor.element
                    ),
                });
            }
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("formats/tests/fixtures").join(name);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn state_dicts_of_pytorch_are_weights_without_their_counters() {
        for form in ["zip", "legacy"] {
            let state = weights(&fixture(&format!("plain.{form}.pth")), Path::new("w.pth")).unwrap();
            let names: Vec<&str> = state.keys().map(String::as_str).collect();
            assert_eq!(names, ["bn.bias", "bn.running_mean", "bn.running_var", "bn.weight", "conv.weight"]);
            assert_eq!(state["conv.weight"].shape, [3, 2, 2, 2]);
        }
    }

    #[test]
    fn what_is_no_file_of_weights_says_what_it_is() {
        let whole = fixture("plain.zip.pth");
        let told = |bytes: &[u8]| weights(bytes, Path::new("w.pth")).unwrap_err();
        let one = HostTensor { shape: vec![1], data: vec![1.0] };
        let safetensors = tensors::encode(&State::from([("w".into(), one)]), Path::new("w"));
        for whole in [whole, safetensors.unwrap()] {
            let e = told(&whole[..whole.len() - 4]);
            assert!(matches!(e, CheckpointError::Broken { .. }) && e.is_configuration(), "{e}");
            assert!(
                e.to_string().contains("`w.pth` is damaged: ") && !e.to_string().contains("earlier"),
                "{e}"
            );
        }
        for (bytes, part) in [
            (&fixture("whole.zip.pth")[..], "torch.save(model.state_dict()"),
            (&fixture("script.pth")[..], "TorchScript"),
            (b"GIF89a", "neither as safetensors nor as what torch.save writes"),
        ] {
            let e = told(bytes);
            assert!(matches!(e, CheckpointError::Foreign { .. }) && e.is_configuration(), "{e}");
            assert!(e.to_string().contains(part) && e.to_string().contains("w.pth"), "{e}");
        }
    }
}
