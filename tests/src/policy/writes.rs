//! Files that matter are written to a temporary name, synced and renamed by the few modules that know how; so
//! nothing else creates or renames a file.

use super::{Source, Violation, paths};

/// The last two segments of a call that makes, truncates or moves a file.
const CALLS: [[&str; 2]; 6] = [
    ["fs", "write"],
    ["fs", "rename"],
    ["fs", "copy"],
    ["File", "create"],
    ["File", "options"],
    ["OpenOptions", "new"],
];

/// Where files may be made.
#[derive(Debug, Clone, Copy)]
pub struct WriteRules {
    /// Files that may, each with what it writes.
    pub allowed: &'static [(&'static str, &'static str)],
}

impl WriteRules {
    /// Every call outside the allowed files; tests may write as they like.
    ///
    /// # Errors
    /// When a file is not Rust.
    pub fn check(&self, sources: &[Source]) -> Result<Vec<Violation>, String> {
        let mut found = Vec::new();
        for source in sources.iter().filter(|s| !self.allowed.iter().any(|(path, _)| *path == s.path)) {
            for path in paths(source)?.iter().filter(|p| !p.in_test) {
                let [.., a, b] = path.segments.as_slice() else { continue };
                if CALLS.contains(&[a.as_str(), b.as_str()]) {
                    let what = format!(
                        "`{a}::{b}`: go through the atomic store, or list the file with what it writes"
                    );
                    found.push(Violation { place: source.path.clone(), line: path.line, what });
                }
            }
        }
        Ok(found)
    }
}
