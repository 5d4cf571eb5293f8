//! Tells the linker where libtorch is, and the binary where to find it.
fn main() {
    let libtorch = std::env::var("LIBTORCH").expect("LIBTORCH is not set: run scripts/setup.sh first");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
}
