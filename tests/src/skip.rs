//! Saying that a test, or a part of one, was not run.

use std::io::Write;

/// Says it past the test harness, which keeps what passing tests print to itself. `scripts/test.sh` lists these lines.
pub fn skipped(why: &str) {
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// What `verify` is told besides, so that a file of 8-bit codes passes on this CPU: nothing where engines compute as training does.
pub fn verified_as_far_as_sums_are_exact() -> &'static [&'static str] {
    match adds_exactly("the limits of `verify` for files of 8-bit codes") {
        true => &[],
        false => &["--min-lsb-within-1", "0", "--max-disagreement", "100"],
    }
}

/// Whether engines compute codes as training does on this CPU; where they do not, says that `what` is not held against it.
pub fn adds_exactly(what: &str) -> bool {
    let exact = octrain::engine::adds_exactly();
    if !exact {
        skipped(&format!("{what}: this CPU has no VNNI, and sums of 8-bit products saturate"));
    }
    exact
}
