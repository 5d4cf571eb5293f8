//! Generates ONNX's types from the standard's own file, without a protoc on the machine.
//!
//! `proto/onnx.proto` is that of ONNX 1.23.2 (github.com/onnx/onnx, Apache-2.0), unchanged.

use prost_build::Config;
use std::fmt::Write;
use std::path::Path;

const FILE: &str = "proto/onnx.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={FILE}");
    let descriptors = protox::compile([FILE], ["proto"])?;
    // Which fields of which messages are messages again: what the reader counts before it decodes.
    let mut fields = Vec::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            visit(&format!(".{}", file.package()), message, &mut fields);
        }
    }
    fields.sort();
    let mut table = String::from("&[\n");
    for (holder, number, held) in fields {
        writeln!(table, "    ({holder:?}, {number}, {held:?}),")?;
    }
    table.push_str("]\n");
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out).join("onnx_messages.rs"), table)?;
    // The standard's comments are no documentation of Rust's: indented lines in them would be taken for its code.
    Config::new().disable_comments(["."]).compile_fds(descriptors)?;
    Ok(())
}

fn visit(within: &str, message: &prost_types::DescriptorProto, fields: &mut Vec<(String, i32, String)>) {
    let name = format!("{within}.{}", message.name());
    for field in &message.field {
        if field.r#type() == prost_types::field_descriptor_proto::Type::Message {
            fields.push((name.clone(), field.number(), field.type_name().to_string()));
        }
    }
    for nested in &message.nested_type {
        visit(&name, nested, fields);
    }
}
