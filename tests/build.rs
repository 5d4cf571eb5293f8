//! Lets the test binaries find libtorch where the worker's binary finds it.
fn main() {
    let libtorch = std::env::var("LIBTORCH").expect("LIBTORCH is not set: run scripts/setup.sh first");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
}
