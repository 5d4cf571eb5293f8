//! What wrote a file, by what the file says of itself.

use super::{ImportError, paddle};
use octrain_formats::paddle as formats;
use octrain_formats::{onnx, pytorch};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes from the beginning of a file that tell what it is.
const HEAD: u64 = 4096;
/// What stands at the beginning of what `torch.save` wrote before PyTorch 1.6: its magic number.
const LEGACY: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// What wrote a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Tensors by name, in a file of safetensors.
    Safetensors,
    /// `torch.save`.
    Pytorch,
    /// An ONNX file.
    Onnx,
    /// PaddlePaddle: a program and the files beside it, or weights of modules.
    Paddle,
}

impl Origin {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Safetensors => "safetensors",
            Origin::Pytorch => "PyTorch",
            Origin::Onnx => "ONNX",
            Origin::Paddle => "Paddle",
        }
    }

    /// What wrote the file or folder at `path`: by content, never by the file's name.
    ///
    /// # Errors
    /// When it cannot be read, or is nothing that can be imported.
    pub fn of(path: &Path) -> Result<Self, ImportError> {
        let unread = |source| ImportError::Unread { path: path.into(), source };
        if path.is_dir() {
            return of_folder(path);
        }
        let mut head = Vec::new();
        File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)).map_err(unread)?;
        of_bytes(&head).ok_or_else(|| {
            unknown(
                path,
                "it begins neither as safetensors nor as what torch.save or Paddle write, nor as an ONNX file",
            )
        })
    }
}

/// The writer of a file that begins like this.
fn of_bytes(head: &[u8]) -> Option<Origin> {
    let pickled = matches!(head, [0x80, 2..=5, ..]);
    if pickled && !head.windows(LEGACY.len()).take(16).any(|part| part == LEGACY)
        || formats::plausible_pir(head)
        || formats::plausible_program(head)
        || formats::plausible_streams(head)
    {
        return Some(Origin::Paddle);
    }
    if pytorch::plausible(head) {
        return Some(Origin::Pytorch);
    }
    // The length of a header in JSON, and that header.
    if head.get(8) == Some(&b'{') {
        return Some(Origin::Safetensors);
    }
    onnx::plausible(head).then_some(Origin::Onnx)
}

fn of_folder(path: &Path) -> Result<Origin, ImportError> {
    if paddle::is_of_paddle(path)? {
        return Ok(Origin::Paddle);
    }
    let why = match crate::checkpoint::find(path, crate::checkpoint::Which::Auto) {
        Ok(_) => "it is a checkpoint of Octrain's already, which every command takes as it is",
        Err(_) => "it is a folder, and holds no network that another program wrote",
    };
    Err(unknown(path, why))
}

fn unknown(path: &Path, why: &str) -> ImportError {
    ImportError::Unknown { path: path.into(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_content() {
        for (head, want) in [
            (&b"PK\x03\x04"[..], Some(Origin::Pytorch)),
            (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", Some(Origin::Pytorch)),
            (b"\x80\x04\x95\x00\x00}", Some(Origin::Paddle)),
            (b"{\"base_code\":{", Some(Origin::Paddle)),
            (b"\x0a\x80\x01\x08\x00\x10\xff\xff\xff\xff\xff", Some(Origin::Paddle)),
            (&[0; 32], Some(Origin::Paddle)),
            (b"\x10\x00\x00\x00\x00\x00\x00\x00{\"", Some(Origin::Safetensors)),
            (b"\x08\x08\x12\x07pytorch", Some(Origin::Onnx)),
            (b"GIF89a is not", None),
            (b"", None),
        ] {
            assert_eq!(of_bytes(head), want, "{head:?}");
        }
    }

    #[test]
    fn what_is_nothing_to_import_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let told = |path: &Path| Origin::of(path).unwrap_err().to_string();
        assert!(told(dir.path()).contains("holds no network"));
        assert!(told(&dir.path().join("none")).contains("cannot read"));
        let file = dir.path().join("x.pth");
        std::fs::write(&file, "GIF89a").unwrap();
        assert!(told(&file).contains("neither as safetensors nor"));
        crate::checkpoint::save(dir.path(), &crate::checkpoint::testing::snapshot(1, 0)).unwrap();
        assert!(told(dir.path()).contains("already"));
    }
}
