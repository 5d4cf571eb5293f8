//! The end of a process in which a library may still be at work.

/// Ends this process now, without what libraries have registered for its end: a thread that is still inside of one,
/// or a GPU that does not answer, could hold that up or crash in it. Nothing is flushed.
pub fn leave(code: u8) -> ! {
    // SAFETY: takes any code and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}
