//! The Python environment of the oracles, made by `scripts/setup.sh --test`.

use crate::policy::repository;
use crate::skipped;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// An interpreter that has PyTorch, ONNX and the engines.
pub struct Python(PathBuf);

/// The environment, or `None` with a visible note where it has not been set up.
pub fn python() -> Option<Python> {
    let interpreter = repository().join(".deps/python/bin/python");
    if interpreter.exists() {
        return Some(Python(interpreter));
    }
    skipped(&format!("{} is not there; scripts/setup.sh --test makes it", interpreter.display()));
    None
}

impl Python {
    /// An interpreter of somebody's.
    pub fn at(interpreter: PathBuf) -> Self {
        Self(interpreter)
    }

    /// Runs a script of `tests/oracles` and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with its own message.
    pub fn run(&self, script: &str, args: &[&OsStr]) -> String {
        let path = repository().join("tests/oracles").join(script);
        let output = Command::new(&self.0)
            .arg(&path)
            .args(args)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}", self.0.display()));
        let text = String::from_utf8_lossy;
        assert!(output.status.success(), "{script} failed\n{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout).into_owned()
    }
}
