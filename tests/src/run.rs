//! Runs of the binary on small data, and what they leave behind.

use crate::binary;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Flags of a small network on the embedded digits, on the CPU.
pub const SMALL: &[&str] = &[
    "--image-root",
    "digits",
    "--model-arch-name",
    "ResNet20",
    "--num-of-class",
    "10",
    "--image-shape",
    "3,32,32",
    "--crop-size",
    "32",
    "--resize-short",
    "32",
    "--device",
    "cpu",
    "--warmup-epochs",
    "0",
    "--label-smoothing",
    "0",
    "--show-config",
    "false",
];

/// What a finished process said.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `octrain` with these words.
pub fn octrain(args: &[&str]) -> Output {
    Command::new(binary("octrain")).args(args).output().expect("the binary starts")
}

/// Runs `octrain` and expects success; returns what it said.
///
/// # Panics
/// When it fails, with what it said.
pub fn succeed(args: &[&str]) -> String {
    let output = octrain(args);
    assert!(
        output.status.success(),
        "octrain {} ended with {}\n{}",
        args.join(" "),
        output.status,
        said(&output)
    );
    said(&output)
}

/// Runs `octrain` and expects this exit code; returns what it said.
///
/// # Panics
/// When it ends otherwise.
pub fn refuse(code: i32, args: &[&str]) -> String {
    let output = octrain(args);
    assert_eq!(output.status.code(), Some(code), "octrain {}\n{}", args.join(" "), said(&output));
    said(&output)
}

/// The furthest checkpoint below a folder: that of the most epochs, then steps.
///
/// # Panics
/// When there is none.
pub fn newest(folder: &Path) -> PathBuf {
    let place = |path: &Path| -> Option<(u32, u32)> {
        let name = path.file_name()?.to_str()?;
        let (epoch, step) = name.split_once('-').unwrap_or((name, "0"));
        Some((epoch.parse().ok()?, step.parse().ok()?))
    };
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let found = entries.flatten().map(|e| e.path()).filter(|p| place(p).is_some()).max_by_key(|p| place(p));
    found.unwrap_or_else(|| panic!("no checkpoint in {}", folder.display()))
}

/// Bits of every FP32 tensor of a safetensors file, by name.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<u32>> {
    let read = tch::Tensor::read_safetensors(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let bits = |t: &tch::Tensor| {
        let flat = t.to_kind(tch::Kind::Float).contiguous().view([-1]);
        Vec::<f32>::try_from(&flat).expect("FP32").into_iter().map(f32::to_bits).collect()
    };
    read.iter().map(|(name, t)| (name.clone(), bits(t))).collect()
}

/// The lines of a report file of one kind.
pub fn report(path: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a line of JSON"));
    lines.filter(|v| v["kind"] == kind).collect()
}
