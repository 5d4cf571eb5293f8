//! Compiles the C++ parts against libtorch, tells the linker where libtorch is and the binary where to find it.
use std::path::Path;

fn main() {
    for variable in ["LIBTORCH", "OCTRAIN_DEPS"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=native");
    let deps = std::env::var("OCTRAIN_DEPS").expect("OCTRAIN_DEPS is not set: run scripts/setup.sh first");
    let libtorch = std::env::var("LIBTORCH").expect("LIBTORCH is not set: run scripts/setup.sh first");
    let include = Path::new(&libtorch).join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .files(["native/fake_quant.cpp", "native/gloo.cpp"])
        .include("native/include")
        .includes([&include, &include.join("torch/csrc/api/include")])
        // No contraction: a fused multiply-add would round otherwise on CPUs that have it.
        .flags(["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w"])
        .compile("octrain_native");
    // The archive stands before these on the linker's line.
    for library in ["torch_cpu", "c10"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    println!("cargo:rustc-link-search=native={libtorch}/lib");
    // Where they are: beside an installed binary, else in this checkout's set-up.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib:{libtorch}/lib");
    let baked = std::fs::canonicalize(&deps).unwrap_or_else(|_| deps.into());
    println!("cargo:rustc-env=OCTRAIN_BAKED_DEPS={}", baked.display());
}
