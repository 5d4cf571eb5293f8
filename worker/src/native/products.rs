//! What oneDNN has for this CPU.

unsafe extern "C" {
    fn octrain_bf16_products() -> bool;
}

/// Whether libtorch hands convolutions and matrix products of BF16 to oneDNN on this CPU, which it does from AVX-512 on. Where it
/// does not, its own loops take ten times as long as FP32's.
pub fn bf16_products() -> bool {
    // SAFETY: asks libtorch once and lets no exception out.
    unsafe { octrain_bf16_products() }
}
