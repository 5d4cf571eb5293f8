//! The CUDA kernels compile, on any machine; NVRTC comes with `scripts/setup.sh --test`.

use super::super::{cuda, nvrtc};

#[test]
fn every_kernel_compiles_for_every_generation() {
    let mut names = vec!["learn_sum".to_string()];
    for kernel in ["quantize", "mask", "learn"] {
        names.extend(["f32", "bf16", "f16"].map(|kind| format!("{kernel}_{kind}")));
    }
    for arch in ["compute_80", "compute_90", "sm_80", "sm_90"] {
        let code = nvrtc::compile(cuda::SOURCE, "fake_quant.cu", arch).unwrap();
        let text = String::from_utf8_lossy(&code);
        for name in &names {
            let entry = match arch.starts_with("compute_") {
                true => format!(".entry {name}("),
                false => format!(".text.{name}\0"),
            };
            assert!(text.contains(&entry), "{name} is not in the code for {arch}");
        }
        if arch.starts_with("compute_") {
            for (wrong, why) in [
                ("fma.rn.f32", "a contracted product"),
                ("div.approx", "an approximate division"),
                (".ftz", "subnormal numbers flushed"),
            ] {
                assert!(!text.contains(wrong), "{why} in the code for {arch}");
            }
            assert!(text.contains("div.rn.f32"));
        }
    }
}

#[test]
fn a_broken_kernel_fails_with_the_compilers_message() {
    let broken = cuda::SOURCE.replacen("const float step =", "const float stepp =", 1);
    assert_ne!(broken, cuda::SOURCE);
    let e = nvrtc::compile(&broken, "broken.cu", "compute_80").unwrap_err().to_string();
    assert!(e.contains("broken.cu(") && e.contains("identifier \"step\" is undefined"), "{e}");
    let e = nvrtc::compile(cuda::SOURCE, "fake_quant.cu", "compute_1").unwrap_err().to_string();
    assert!(e.contains("compute_1"), "{e}");
}
