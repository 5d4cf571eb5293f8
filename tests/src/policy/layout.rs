//! The size and the name of a file.

use super::{Source, Violation};

/// A file allowed to be long, and why.
#[derive(Debug, Clone, Copy)]
pub struct LongFile {
    /// Path from the repository root.
    pub path: &'static str,
    /// Why it is one piece.
    pub reason: &'static str,
}

/// The longest a file may be without a reason, in lines, and those that have one.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Lines.
    pub limit: usize,
    /// The exceptions.
    pub reasons: &'static [LongFile],
}

impl Lengths {
    /// Files over the limit without a reason, and reasons that no file needs any more.
    pub fn check(&self, sources: &[Source]) -> Vec<Violation> {
        let mut found = Vec::new();
        let add = |found: &mut Vec<Violation>, place: &str, what: String| {
            found.push(Violation { place: place.into(), line: 0, what });
        };
        for source in sources {
            let lines = source.text.lines().count();
            let excused = self.reasons.iter().any(|l| l.path == source.path && !l.reason.is_empty());
            if lines > self.limit && !excused {
                let what = format!("{lines} lines; split it, or give a reason for more than {}", self.limit);
                add(&mut found, &source.path, what);
            }
        }
        for long in self.reasons {
            let needed = sources.iter().any(|s| s.path == long.path && s.text.lines().count() > self.limit);
            if !needed {
                add(&mut found, long.path, "is listed as long but is not; take it off the list".into());
            }
        }
        found
    }
}

/// Files or folders whose name says nothing about what is in them.
pub fn vague_names(sources: &[Source]) -> Vec<Violation> {
    const VAGUE: [&str; 8] = ["utils", "util", "helpers", "helper", "common", "misc", "shared", "stuff"];
    let vague = |s: &&Source| s.path.split('/').any(|part| VAGUE.contains(&part.trim_end_matches(".rs")));
    let violation = |s: &Source| Violation {
        place: s.path.clone(),
        line: 0,
        what: "a module is named after what it does, not `utils` and the like".into(),
    };
    sources.iter().filter(vague).map(violation).collect()
}
