//! The CUDA kernels compile, on any machine; NVRTC comes with `scripts/setup.sh --test`.

use super::super::{cuda, nvrtc};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Generations whose code is looked into: it takes seconds to compile, and is compiled once.
const CODED: [&str; 4] = ["sm_80", "sm_90", "sm_100", "sm_120"];

/// The code of all kernels for one of [`CODED`], and what ptxas says of it.
fn coded(arch: &str) -> &'static (Vec<u8>, String) {
    static DONE: [OnceLock<(Vec<u8>, String)>; CODED.len()] = [const { OnceLock::new() }; CODED.len()];
    let at = CODED.iter().position(|a| *a == arch).unwrap();
    DONE[at].get_or_init(|| {
        let source = cuda::SOURCE.concat();
        nvrtc::compile_and_tell(&source, "kernels.cu", arch, &["--ptxas-options=-v"]).unwrap()
    })
}

#[test]
fn every_kernel_compiles_for_every_generation() {
    let mut names =
        ["learn_sum", "chain_statistics_end", "chain_running", "chain_sums_end"].map(str::to_string).to_vec();
    let of_types = [
        "quantize",
        "mask",
        "learn",
        "weight",
        "chain_statistics",
        "chain_apply",
        "chain_sums",
        "chain_sums_of_two",
        "chain_backward",
        "max_pool",
        "max_pool_backward",
    ];
    for kernel in of_types {
        names.extend(["f32", "bf16", "f16"].map(|kind| format!("{kernel}_{kind}")));
    }
    for arch in ["compute_75", "compute_80", "compute_90", "sm_75"].into_iter().chain(CODED) {
        let alone;
        let code = if CODED.contains(&arch) {
            &coded(arch).0
        } else {
            alone = nvrtc::compile(&cuda::SOURCE.concat(), "kernels.cu", arch).unwrap();
            &alone
        };
        let text = String::from_utf8_lossy(code);
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

/// What ptxas says of each kernel: bytes spilled, registers.
fn resources(log: &str) -> BTreeMap<String, [u32; 2]> {
    let mut found = BTreeMap::new();
    let (mut name, mut spilled) = (String::new(), 0);
    let before = |line: &str, what: &str| -> Option<u32> {
        line.split(what).next()?.split_whitespace().last()?.parse().ok()
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default().into();
        }
        if line.contains(" bytes spill stores") {
            let counts = [" bytes stack frame", " bytes spill stores", " bytes spill loads"];
            spilled = counts.iter().map(|what| before(line, what).expect("a number")).sum();
        }
        if line.contains(" registers") {
            let registers = before(line, " registers").expect("a number");
            found.insert(std::mem::take(&mut name), [spilled, registers]);
        }
    }
    found
}

/// Blocks that the registers of a multiprocessor hold: 65,536, given to warps in pieces of 256. Threads are at most
/// 1,536 on the smallest of these GPUs.
fn held(registers: u32) -> u32 {
    let of_a_warp = (registers * 32).next_multiple_of(256);
    (65_536 / (of_a_warp * cuda::THREADS / 32)).min(1_536 / cuda::THREADS)
}

#[test]
fn no_kernel_spills_and_a_multiprocessor_holds_enough_threads_of_each() {
    assert!(cuda::SOURCE[0].contains(&format!("#define THREADS {} ", cuda::THREADS)));
    for arch in CODED {
        let (_, log) = coded(arch);
        let kernels = resources(log);
        assert_eq!(kernels.len(), 37, "{log}");
        for (name, [spilled, registers]) in kernels {
            assert_eq!(spilled, 0, "{name} on {arch} spills");
            // A thread of these has 16 bytes of each tensor under way, one of the others an element.
            let eight = ["chain_", "max_pool"].iter().any(|of| name.starts_with(of));
            let least = if eight { 3 } else { 4 };
            assert!(held(registers) >= least, "{name} on {arch}: {registers} registers");
        }
    }
    assert_eq!([32, 42, 64, 65].map(held), [6, 5, 4, 3]);
}

#[test]
fn a_launch_is_what_there_is_to_do_or_what_the_device_holds() {
    assert_eq!([(0, 660), (5, 660), (10_000, 660), (7, 0)].map(|(t, h)| cuda::blocks(t, h)), [1, 5, 660, 1]);
}

#[test]
fn a_broken_kernel_fails_with_the_compilers_message() {
    let source = cuda::SOURCE.concat();
    let broken = source.replacen("const float scale =", "const float scalee =", 1);
    assert_ne!(broken, source);
    let e = nvrtc::compile(&broken, "broken.cu", "compute_80").unwrap_err().to_string();
    assert!(e.contains("broken.cu(") && e.contains("identifier \"scale\" is undefined"), "{e}");
    let e = nvrtc::compile(&source, "kernels.cu", "compute_1").unwrap_err().to_string();
    assert!(e.contains("compute_1"), "{e}");
}
