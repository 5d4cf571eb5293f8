//! A stand-in for NCCL, compiled when a test needs it: see `fixtures/nccl_stand_in.cpp`.

use crate::policy::repository;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library, compiled once in a process.
fn compiled() -> &'static [u8] {
    static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let library = folder.path().join("libnccl.so.2");
        let source = repository().join("tests/fixtures/nccl_stand_in.cpp");
        let output = Command::new("c++")
            .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", "-pthread", "-o"])
            .args([&library, &source])
            .output()
            .expect("the compiler that the build needs too");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(&library).expect("it was just written")
    })
}

/// A copy of the stand-in with a script and a log of its own.
pub struct StandIn {
    folder: tempfile::TempDir,
}

impl StandIn {
    /// A copy; `script` says what goes wrong, a line for each fault, as the source explains.
    ///
    /// # Panics
    /// When the system's C++ compiler does not compile it.
    pub fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let it = Self { folder };
        std::fs::write(it.library(), compiled()).expect("the folder can be written");
        std::fs::write(it.beside(".script"), script).expect("the folder can be written");
        it
    }

    /// The library's file.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnccl.so.2")
    }

    fn beside(&self, end: &str) -> PathBuf {
        let name = format!("libnccl.so.2{end}");
        Path::new(self.folder.path()).join(name)
    }

    /// What it was asked and what went wrong, in order.
    pub fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.beside(".log")).unwrap_or_default();
        text.lines().map(str::to_string).collect()
    }

    /// Whether each rank was finalized and then freed, and nothing was aborted, cut off or misused.
    pub fn parted_in_good_order(&self, ranks: usize) -> bool {
        let log = self.log();
        let at = |line: String| log.iter().position(|l| *l == line);
        let orderly = |rank: usize| {
            let (end, freed) = (at(format!("rank {rank} finalize")), at(format!("rank {rank} destroy")));
            end.is_some() && freed.is_some() && end < freed
        };
        (0..ranks).all(orderly) && !log.iter().any(|l| l.contains("abort") || l.starts_with("FAULT"))
    }
}
