//! Generates the protocol's types without a protoc on the machine.

/// The file, in the folder `proto`.
const FILE: &str = "proto/coordinator.proto";
/// Enumerations that are defined in `octrain-core`, once for files, flags, the library and the wire.
const CHOICES: &[(&str, &str)] = &[
    (".octrain.v1.Amp", "::octrain_core::strategy::Amp"),
    (".octrain.v1.Device", "::octrain_core::strategy::Device"),
    (".octrain.v1.Layout", "::octrain_core::strategy::Layout"),
    (".octrain.v1.Observer", "::octrain_core::strategy::Observer"),
    (".octrain.v1.Pass", "::octrain_core::passes::Pass"),
    (".octrain.v1.Purpose", "::octrain_core::strategy::Purpose"),
    (".octrain.v1.ReduceType", "::octrain_core::strategy::ReduceType"),
    (".octrain.v1.Target", "::octrain_core::strategy::Target"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={FILE}");
    let builder =
        CHOICES.iter().fold(tonic_prost_build::configure(), |b, (proto, rust)| b.extern_path(*proto, *rust));
    builder.compile_fds(protox::compile([FILE], ["proto"])?)?;
    Ok(())
}
