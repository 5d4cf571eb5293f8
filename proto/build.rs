//! Generates the protocol's types without a protoc on the machine.

/// Files with a service: messages, clients and servers.
const SERVICES: &[&str] = &["proto/coordinator.proto"];
/// Files with messages only.
const MESSAGES: &[&str] = &[];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in SERVICES.iter().chain(MESSAGES) {
        println!("cargo:rerun-if-changed={file}");
        let descriptors = protox::compile([file], ["proto"])?;
        if SERVICES.contains(file) {
            tonic_prost_build::configure().compile_fds(descriptors)?;
        } else {
            prost_build::Config::new().compile_fds(descriptors)?;
        }
    }
    Ok(())
}
