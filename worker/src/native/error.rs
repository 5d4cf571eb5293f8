//! Messages from C++.

use std::ffi::{CStr, c_char};

/// What a C++ part answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NativeError(pub String);

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
