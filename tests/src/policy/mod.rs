//! The architecture's invariants as checks on sources and on the dependency tree.
//!
//! Each check is a function of plain data that returns what it found, so that each can be shown to fail on a
//! snippet that breaks it; `tests/invariants.rs` applies them to this repository.

mod dependencies;
mod fallible;
mod flags;
mod imports;
mod layout;
mod paths;
mod unsafety;
mod writes;

pub use dependencies::{Licences, Package, Tree};
pub use fallible::FallibleRules;
pub use flags::FlagRules;
pub use imports::{ImportRules, Rooms};
pub use layout::{Lengths, LongFile, vague_names};
pub use paths::{PathUse, paths};
pub use unsafety::UnsafeRules;
pub use writes::WriteRules;

use std::fmt;
use std::path::{Path, PathBuf};

/// One source file: its path from the repository root (with `/`) and its text.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path from the repository root.
    pub path: String,
    /// The text.
    pub text: String,
}

impl Source {
    /// A snippet, for showing that a check can fail.
    pub fn snippet(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// The module path of the file in its crate: `worker/src/graph/node.rs` is `graph`, `node`.
    fn module(&self) -> Vec<String> {
        let inner = self.path.split_once("/src/").map_or(self.path.as_str(), |(_, inner)| inner);
        let mut parts: Vec<String> = inner.trim_end_matches(".rs").split('/').map(str::to_string).collect();
        if parts.last().is_some_and(|l| matches!(l.as_str(), "mod" | "lib" | "main")) {
            parts.pop();
        }
        parts
    }

    /// Whether the file holds tests only.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or("");
        name == "tests.rs"
            || name.ends_with("_test.rs")
            || name.ends_with("_tests.rs")
            || self.path.contains("/tests/")
    }
}

/// What broke a rule, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// File, or package.
    pub place: String,
    /// Line in the file, from 1; 0 where there is none.
    pub line: usize,
    /// What was found and what the rule wants.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.place, self.what),
            line => write!(f, "{}:{line}: {}", self.place, self.what),
        }
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_path_buf()
}

/// Every Rust file below `folder` of the repository, by path.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn sources(folder: &str) -> std::io::Result<Vec<Source>> {
    let root = repository();
    let mut pending = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name =
                    path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
                found.push(Source { path: name, text: std::fs::read_to_string(&path)? });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Fails a test with every violation on a line of its own.
pub fn assert_none(rule: &str, violations: &[Violation]) {
    let lines: Vec<String> = violations.iter().map(|v| format!("  {v}")).collect();
    assert!(violations.is_empty(), "{rule}:\n{}", lines.join("\n"));
}
