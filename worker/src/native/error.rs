//! Messages from C++.

use std::ffi::{CStr, c_char};

/// What a C++ part answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NativeError(pub String);

impl From<NativeError> for tch::TchError {
    fn from(e: NativeError) -> Self {
        Self::Torch(e.0)
    }
}

/// What allocators say: libtorch's for GPUs and CPUs, cuDNN's and cuBLAS's, C++'s, the driver's, NCCL's, whose last
/// words after a failed allocation name the bytes only.
const NO_MEMORY: [&str; 11] = [
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "bad_alloc",
    "ERROR_OUT_OF_MEMORY",
    "Failed to CUDA malloc",
    "Failed to CUDA calloc",
    "Failed to CUDA host alloc",
    "Failed to malloc",
];

/// Whether these are words of an allocator that has no memory left.
pub fn says_no_memory(words: &str) -> bool {
    NO_MEMORY.iter().any(|w| words.contains(w))
}

/// Turns a C++ function's answer into a result.
///
/// # Safety
/// `message` is null or a string from `malloc` that is the caller's.
pub(crate) unsafe fn check(message: *mut c_char) -> Result<(), NativeError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so a C string by contract.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: from malloc by contract, and not used after.
    unsafe { libc::free(message.cast()) };
    // Where in C++ it was thrown helps nobody here.
    let first = text.split("\nException raised from").next().unwrap_or_default().trim();
    Err(NativeError(first.to_string()))
}
