//! The `octrain-coordinator` binary.
fn main() {}
