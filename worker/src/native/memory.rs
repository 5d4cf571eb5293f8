//! What becomes of memory that is freed.

/// Lets this process keep memory that it frees, for its next allocation, instead of giving it back to the system: every step of
/// a training allocates the same tensors, and pages that come anew from the system are zeroed first, which costs a training
/// step on the CPU up to a fifth of its time. The process then never gets smaller than it has been; glibc only, elsewhere
/// nothing changes. It holds for the main thread, which is to run the steps: arenas of other threads end at 64 MiB, and what is
/// larger than that is mapped anew there. To be called before the first large allocation; whoever embeds training in a larger
/// program decides.
pub fn keep_freed() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        // Nothing of the main thread's is mapped on its own, and nothing is given back at the end of its heap.
        (libc::M_MMAP_MAX, 0),
        (libc::M_TRIM_THRESHOLD, -1),
        // The heap grows by this many bytes beyond what is wanted.
        (libc::M_TOP_PAD, 64 << 20),
    ] {
        // SAFETY: it changes how the allocator works and no memory.
        let taken = unsafe { libc::mallopt(option, value) };
        debug_assert_eq!(taken, 1, "option {option} of malloc");
    }
}
