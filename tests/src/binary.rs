//! The binaries under test, as cargo builds them beside the tests' own.

use std::path::PathBuf;

/// The path of a binary of this workspace, e.g. `octrain`.
///
/// # Panics
/// When it has not been built: `cargo build --bins --examples` (which `scripts/test.sh` does before the tests).
pub fn binary(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a test has a file of its own");
    let folder = me.parent().and_then(|deps| deps.parent()).expect("tests lie in target/<profile>/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --bins --examples` first",
        path.display()
    );
    path
}
