//! Compiles the C++ parts against libtorch, tells the linker where libtorch is and the binary where to find it.
use std::path::{Path, PathBuf};

/// No contraction: a fused multiply-add would round otherwise on CPUs that have it.
const FLAGS: [&str; 5] = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-w"];

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
        .files(together())
        .include("native/include")
        .includes([&include, &include.join("torch/csrc/api/include")])
        .flags(FLAGS)
        // Without it `at::parallel_for`, a template, is a plain loop in the files that include it.
        .flag("-fopenmp")
        .compile("octrain_native");
    loops();
    // The archives stand before these on the linker's line.
    for library in ["torch_cpu", "c10"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    // libtorch's own, so that its threads and these are the same.
    println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
    println!("cargo:rustc-link-search=native={libtorch}/lib");
    // Where they are: beside an installed binary, else in this checkout's set-up.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib:{libtorch}/lib");
    let baked = std::fs::canonicalize(&deps).unwrap_or_else(|_| deps.into());
    println!("cargo:rustc-env=OCTRAIN_BAKED_DEPS={}", baked.display());
}

/// The sources that include libtorch's headers, in two files: reading those headers is most of what each costs.
fn together() -> [PathBuf; 2] {
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    let native = std::env::current_dir().expect("cargo runs this in the package's folder").join("native");
    [
        ("operators.cpp", &["gloo", "depthwise", "fake_quant", "int8", "max_pool"][..]),
        ("pointwise.cpp", &["pointwise", "pointwise_gpu", "device", "gradients", "update", "isa", "threads"]),
    ]
    .map(|(file, sources)| {
        let includes = sources.iter().map(|name| {
            let source = native.join(name).with_extension("cpp");
            format!("#include {source:?}\n")
        });
        let file = out.join(file);
        std::fs::write(&file, includes.collect::<String>()).expect("OUT_DIR can be written");
        file
    })
}

/// The inner loops, once for each instruction set; which of them runs is decided at run time.
fn loops() {
    let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let avx512 =
        ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mf16c", "-mprefer-vector-width=512"];
    let variants: [(&str, &[&str]); 3] =
        [("portable", &[]), ("avx2", &["-mavx2", "-mf16c"]), ("avx512", &avx512)];
    for (isa, flags) in variants.into_iter().filter(|(isa, _)| x86 || *isa == "portable") {
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .files(["depthwise_loops", "loops", "pointwise_loops"].map(|name| format!("native/{name}.cpp")))
            .define("OCTRAIN_ISA", isa)
            .flags(FLAGS)
            .flags(flags)
            .compile(&format!("octrain_loops_{isa}"));
    }
}
