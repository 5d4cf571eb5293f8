//! What oneDNN has for this CPU.

unsafe extern "C" {
    fn octrain_bf16_products() -> i32;
}

/// What libtorch says: 1 yes, 0 no, -1 where it cannot say.
fn said() -> i32 {
    // SAFETY: asks libtorch once and lets no exception out.
    unsafe { octrain_bf16_products() }
}

/// Whether libtorch hands convolutions and matrix products of BF16 to oneDNN on this CPU, which it does from AVX-512 on. Where it
/// does not, its own loops take ten times as long as FP32's. A libtorch that cannot say counts as one that does not.
pub fn bf16_products() -> bool {
    said() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_says_whether_onednn_has_bf16_for_this_cpu() {
        assert_ne!(said(), -1, "this libtorch does not say");
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags: Vec<&str> =
            cpu.lines().find(|l| l.starts_with("flags")).unwrap_or("").split(' ').collect();
        if ["avx512bw", "avx512vl", "avx512dq"].iter().all(|f| flags.contains(f)) {
            assert!(bf16_products());
        }
    }
}
