//! Saying that a test, or a part of one, was not run.

use std::io::Write;

/// Says it past the test harness, which keeps what passing tests print to itself. `scripts/test.sh` lists these lines.
pub fn skipped(why: &str) {
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether engines compute codes as training does on this CPU; where they do not, says that `what` is not held against it.
pub fn adds_exactly(what: &str) -> bool {
    let exact = octrain::engine::adds_exactly();
    if !exact {
        skipped(&format!("{what}: this CPU has no VNNI, and sums of 8-bit products saturate"));
    }
    exact
}
