//! What Paddle writes: programs (`.pdmodel`, and `.json` since Paddle 3), weights beside them (`.pdiparams`), and pickled
//! dicts of arrays (`.pdparams`, `.pdopt`).

mod pir;
mod program;
mod state;
mod streams;
mod wire;

pub use program::{Attribute, Op, Program, Var};
pub use state::{StateDict, read as state};
pub use streams::read as streams;

use crate::FormatError;

/// Reads a program in either of its forms.
///
/// # Errors
/// When the bytes are damaged, or no program of Paddle's.
pub fn program(bytes: &[u8]) -> Result<Program, FormatError> {
    match plausible_pir(bytes) {
        true => pir::read(bytes),
        false => program::read(bytes),
    }
}

/// Whether bytes begin as the programs of Paddle 3 do: JSON that says so in its first entry.
pub fn plausible_pir(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(256)];
    let packed: Vec<u8> = head.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    packed.starts_with(b"{\"base_code\":")
}

/// Whether bytes begin as a `.pdmodel` does: with its first block, numbered 0, without a parent.
pub fn plausible_program(bytes: &[u8]) -> bool {
    program::plausible(bytes)
}

/// Whether bytes begin as the weights beside a program do: a tensor of version 0 with few levels of detail.
pub fn plausible_streams(bytes: &[u8]) -> bool {
    streams::plausible(bytes)
}
