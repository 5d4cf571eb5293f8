//! The architecture's invariants, applied to this repository; then each check shown to fail on what it is for.

use octrain_tests::policy::{
    FallibleRules, FlagRules, ImportRules, Lengths, Licences, LongFile, Rooms, Source, Tree, UnsafeRules,
    Violation, WriteRules, assert_none, paths, repository, sources, vague_names,
};
use std::process::Command;

/// What decisions must do without: they are plain data, testable without a device.
const PURE: &[&str] = &["tch", "torch_sys", "tokio", "tonic", "cudarc"];

/// The numerics of quantization stand below the graph, whose nodes carry them; the rest of `quant` stands above.
const CORE: Rooms = Rooms { apart: &["quant::scheme"] };

fn worker_imports() -> ImportRules {
    ImportRules {
        without: vec![("config", PURE)],
        only_used_by: vec![
            // `session` carries the rendezvous of the collectives; `trainer` and `optim` reduce; `doctor` tries them out.
            ("collective", &["optim", "trainer", "session", "doctor"]),
            // The binary's root, which is no room.
            ("cli", &[""]),
        ],
        never: vec![("export", "optim"), ("engine", "optim"), ("engine", "exec"), ("data", "exec")],
        ..ImportRules::default()
    }
}

/// What the coordinator does besides deciding. Every other room of it is plain data and pure functions.
const COORDINATOR_IO: &[&str] = &[
    "accept.rs",
    "certificates.rs",
    "chronicle/file.rs",
    "driver.rs",
    "fence.rs",
    "journal/file.rs",
    "outlet.rs",
    "parked.rs",
    "service.rs",
    "server.rs",
    "grpc_status.rs",
    "guard.rs",
    "main.rs",
    "secret_file.rs",
    "tls.rs",
    "token.rs",
];

fn decision_imports() -> ImportRules {
    ImportRules { without: vec![("*", PURE)], ..ImportRules::default() }
}

const UNSAFE: UnsafeRules = UnsafeRules { allowed: &["worker/src/collective/", "worker/src/native/"] };

const FALLIBLE: FallibleRules = FallibleRules {
    rooms: &[
        "worker/src/collective/",
        "worker/src/data/",
        "worker/src/exec/",
        "worker/src/native/",
        "worker/src/optim/",
        "worker/src/trainer/",
    ],
    tests: &["worker/src/collective/faulty.rs"],
};

/// Rooms that are used without a command line.
const FLAGS: FlagRules = FlagRules {
    rooms: &[
        "worker/core/src/graph/",
        "worker/core/src/models/",
        "worker/core/src/passes/",
        "worker/core/src/quant/",
        "worker/src/checkpoint/",
        "worker/src/collective/",
        "worker/src/data/",
        "worker/src/exec/",
        "worker/src/export/",
        "worker/src/optim/",
    ],
    exceptions: &[(
        "scripts/setup.sh --cuda",
        "it installs what is missing, for whoever uses the library too",
    )],
};

const LENGTHS: Lengths = Lengths { limit: 500, reasons: &[] };

const WRITES: WriteRules = WriteRules {
    allowed: &[
        (
            "coordinator/src/certificates.rs",
            "made once and never over another; keys are nobody else's from the start",
        ),
        (
            "coordinator/src/chronicle/file.rs",
            "lines appended as they come, for people and dashboards; a torn line is closed by whoever writes next",
        ),
        (
            "coordinator/src/journal/file.rs",
            "appended to and synced; what was cut short is cut off by its reader",
        ),
        ("worker/src/checkpoint/atomic.rs", "it is the atomic store: one file"),
        ("worker/src/checkpoint/store.rs", "it is the atomic store: a folder of files"),
        ("worker/src/checkpoint/lock.rs", "the file that is locked; what it says is for people"),
        ("worker/src/checkpoint/trial.rs", "tries whether a folder can be written, and leaves nothing"),
        ("worker/src/checkpoint/leftovers.rs", "puts back a checkpoint that a killed run was replacing"),
        ("worker/src/collective/folder.rs", "where processes of one host meet for as long as a check takes"),
        ("worker/src/metrics/report.rs", "lines appended as they come; a torn last line costs that line"),
        ("worker/src/metrics/trace_file.rs", "a file, link or device that a user has named stays what it is"),
        ("worker/src/cli/recipe.rs", "moves the folder of an earlier experiment aside"),
    ],
};

fn all_sources() -> Vec<Source> {
    [
        "proto/src",
        "coordinator/src",
        "worker/core/src",
        "worker/formats/src",
        "worker/src",
        "tests/src",
        "tests/tests",
    ]
    .iter()
    .flat_map(|folder| sources(folder).unwrap_or_else(|e| panic!("cannot read {folder}: {e}")))
    .collect()
}

fn product_sources() -> Vec<Source> {
    all_sources().into_iter().filter(|s| !s.path.starts_with("tests/")).collect()
}

fn tree() -> Tree {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Tree::parse(&String::from_utf8(output.stdout).expect("UTF-8")).expect("cargo metadata's format 1")
}

fn places(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(|v| format!("{}:{}", v.place, v.line)).collect()
}

#[test]
fn rooms_keep_to_their_imports() {
    let worker = sources("worker/src").unwrap();
    assert!(worker.len() > 20, "the worker's sources were not found");
    assert_none("imports in worker/src", &worker_imports().check(&worker).unwrap());
}

#[test]
fn rooms_depend_one_way() {
    let rooms = Rooms::default();
    assert_eq!(rooms.cycle(&sources("worker/src").unwrap()).unwrap(), None, "a circle in worker/src");
    assert_eq!(
        CORE.cycle(&sources("worker/core/src").unwrap()).unwrap(),
        None,
        "a circle in worker/core/src"
    );
}

#[test]
fn the_coordinator_decides_without_io() {
    let mut decisions = sources("coordinator/src").unwrap();
    let all = decisions.len();
    assert_eq!(
        Rooms::default().cycle(&decisions).unwrap(),
        None,
        "rooms of coordinator/src use each other in a circle"
    );
    decisions.retain(|s| !COORDINATOR_IO.iter().any(|io| s.path == format!("coordinator/src/{io}")));
    assert_eq!(all - decisions.len(), COORDINATOR_IO.len(), "COORDINATOR_IO names a file that is not there");
    assert_none("imports of the coordinator's decisions", &decision_imports().check(&decisions).unwrap());
}

#[test]
fn the_coordinator_does_not_link_libtorch() {
    let chain = tree().chain("octrain-coordinator", &["tch", "torch-sys", "octrain", "cudarc"]).unwrap();
    assert_eq!(chain, None);
}

#[test]
fn the_core_and_the_readers_of_formats_are_data_and_pure_functions() {
    let tree = tree();
    let heavy = ["tch", "torch-sys", "tokio", "tonic", "cudarc", "octrain", "octrain-coordinator"];
    assert_eq!(tree.chain("octrain-core", &[&heavy[..], &["prost"]].concat()).unwrap(), None);
    let without = ["fs", "net", "process", "thread"].map(|m| format!("std::{m}"));
    assert_eq!(tree.chain("octrain-formats", &heavy).unwrap(), None);
    let pure = ["worker/core/src", "worker/formats/src"].map(|room| sources(room).unwrap());
    for source in pure.iter().flatten().filter(|s| !s.path.ends_with("/tests.rs")) {
        let found = without.iter().find(|m| source.text.contains(m.as_str()));
        assert_eq!(found, None, "{} does I/O", source.path);
    }
}

#[test]
fn unsafe_stays_in_the_native_bindings() {
    assert_none("unsafe", &UNSAFE.check(&product_sources()).unwrap());
}

#[test]
fn calls_of_libtorch_that_can_fail_on_a_gpu_return_their_error() {
    assert_none("infallible calls", &FALLIBLE.check(&product_sources()).unwrap());
}

#[test]
fn the_library_speaks_of_its_api_and_not_of_flags() {
    assert_none("flags in the library's texts", &FLAGS.check(&product_sources()).unwrap());
}

#[test]
fn files_are_short_and_named_after_what_they_do() {
    assert_none("file lengths", &LENGTHS.check(&all_sources()));
    assert_none("file names", &vague_names(&all_sources()));
}

#[test]
fn files_are_written_by_the_atomic_store() {
    assert_none("writes", &WRITES.check(&product_sources()).unwrap());
}

#[test]
fn dependencies_come_from_crates_io_under_allowed_licences() {
    let deny = std::fs::read_to_string(repository().join("deny.toml")).unwrap();
    let tree = tree();
    assert!(tree.len() > 100, "the tree has only {} packages", tree.len());
    assert_none("dependencies", &tree.check(&Licences::parse(&deny).unwrap()));
}

#[test]
fn every_member_takes_the_workspace_lints() {
    for member in ["proto", "coordinator", "worker", "worker/core", "worker/formats", "tests"] {
        let text = std::fs::read_to_string(repository().join(member).join("Cargo.toml")).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let workspace = table.get("lints").and_then(|l| l.get("workspace")).and_then(|w| w.as_bool());
        assert_eq!(workspace, Some(true), "{member}/Cargo.toml does not take [workspace.lints]");
    }
}

// ---- the checks can fail

#[test]
fn an_import_is_seen_however_it_is_written() {
    let rules = worker_imports();
    let bad = [
        "use tch::Tensor;",
        "use ::tch;",
        "use std::{fmt, io};\nuse {serde::Serialize, tch::Kind};",
        "fn f(t: &tch::Tensor) {}",
        "fn f() { println!(\"{}\", tch::Tensor::new()) }",
        "#[cfg(test)] mod tests { use tokio::time; }",
        "use super::super::cli::Args;",
        "use crate::cli;",
        "fn f() { crate::collective::open() }",
    ];
    for text in bad {
        let found = rules.check(&[Source::snippet("worker/src/config/validate.rs", text)]).unwrap();
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    let good = [
        "use crate::graph::Node; use super::text; // tch::Tensor\n",
        "/// Like [`tch::Tensor`].\nfn f() { let tch = 1; g(tch, \"tch::Tensor\") }",
        "#[cfg(test)] mod tests { use crate::export::write; }",
    ];
    for text in good {
        assert_eq!(
            rules.check(&[Source::snippet("worker/src/config/validate.rs", text)]).unwrap(),
            [],
            "{text}"
        );
    }
}

#[test]
fn rooms_that_must_stay_apart_are_told_by_name() {
    let found = worker_imports()
        .check(&[
            Source::snippet("worker/src/export/onnx.rs", "\nuse crate::{graph, optim::Sgd};"),
            Source::snippet("worker/src/data/mod.rs", "use crate::collective::Collective;"),
            Source::snippet("worker/src/trainer/mod.rs", "use crate::collective::Collective;"),
        ])
        .unwrap();
    assert_eq!(places(&found), ["worker/src/export/onnx.rs:2", "worker/src/data/mod.rs:1"]);
    assert!(found[0].what.contains("`export` must not use `optim`"), "{}", found[0]);
    assert!(found[1].what.contains("may use `collective`"), "{}", found[1]);
}

#[test]
fn io_in_a_decision_is_found() {
    let found = decision_imports().check(&[
        Source::snippet("coordinator/src/ranks.rs", "use tokio::time::Instant;"),
        Source::snippet("coordinator/src/job/event.rs", "fn f() -> Result<(), tonic::Status> { todo!() }"),
    ]);
    assert_eq!(places(&found.unwrap()), ["coordinator/src/ranks.rs:1", "coordinator/src/job/event.rs:1"]);
}

#[test]
fn relative_paths_are_resolved_against_the_file() {
    let source =
        Source::snippet("worker/src/a/b.rs", "use super::c; mod inner { use super::super::d::{self, e}; }");
    let found: Vec<String> = paths(&source).unwrap().iter().map(|p| p.segments.join("::")).collect();
    assert_eq!(found, ["crate::a::c", "crate::a::d", "crate::a::d::e"]);
}

#[test]
fn a_circle_of_rooms_is_shown() {
    let files = [
        Source::snippet("worker/src/a/mod.rs", "use crate::b::X;"),
        Source::snippet("worker/src/b.rs", "fn f() { crate::c::g() }"),
        Source::snippet("worker/src/c.rs", "use super::a;\n#[cfg(test)] mod tests { use crate::b::X; }"),
    ];
    let rooms = Rooms::default();
    let found = rooms.cycle(&files).unwrap().expect("a circle");
    assert!(found.starts_with("a -> b -> c -> a"), "{found}");
    assert_eq!(rooms.cycle(&files[..2]).unwrap(), None);
    let apart = [
        Source::snippet("worker/src/quant/scheme.rs", ""),
        Source::snippet("worker/src/quant/placement.rs", "use crate::graph::Node;"),
        Source::snippet("worker/src/graph/node.rs", "use crate::quant::scheme::Sign;"),
    ];
    assert!(rooms.cycle(&apart).unwrap().is_some());
    assert_eq!(CORE.cycle(&apart).unwrap(), None);
}

#[test]
fn unsafe_is_seen_outside_its_place_and_without_its_note() {
    let block = "fn f() {\n    unsafe { g() }\n}";
    let noted = "fn f() {\n    // SAFETY: g has no conditions.\n    unsafe { g() }\n}";
    let check = |path: &str, text: &str| places(&UNSAFE.check(&[Source::snippet(path, text)]).unwrap());
    assert_eq!(check("worker/src/data/x.rs", noted), ["worker/src/data/x.rs:3"]);
    assert_eq!(check("worker/src/collective/nccl/sys.rs", block), ["worker/src/collective/nccl/sys.rs:2"]);
    assert_eq!(check("worker/src/collective/nccl/sys.rs", noted), [""; 0]);
    assert_eq!(check("worker/src/collective/nccl/sys.rs", "unsafe extern \"C\" { fn g(); }"), [""; 0]);
    assert_eq!(check("worker/src/data/x.rs", "fn f() { m!(unsafe { g() }) }").len(), 2);
    assert_eq!(check("worker/src/data/x.rs", "// unsafe { }\nconst S: &str = \"unsafe { }\";"), [""; 0]);
}

#[test]
fn an_infallible_call_of_libtorch_is_found() {
    let check =
        |path: &str, text: &str| places(&FALLIBLE.check(&[Source::snippet(path, text)]).unwrap()).len();
    let bad = [
        "fn f(t: &Tensor) { g(t.to_device(d)) }",
        "fn f(t: &Tensor) { t.narrow(0, 1, 2)\n.copy_(&s) }",
        "fn f() { Tensor::from_slice(&[1.0]) }",
        "fn f() { vec![tch::Tensor::zeros([1], o)] }",
    ];
    for text in bad {
        assert_eq!(check("worker/src/exec/x.rs", text), 1, "{text}");
        assert_eq!(check("worker/src/verify/x.rs", text), 0, "verification runs on the CPU");
        assert_eq!(check("worker/src/exec/x.rs", &format!("#[cfg(test)] mod tests {{ {text} }}")), 0);
    }
    let good = [
        "fn f(t: &Tensor) { t.f_to_device(d)?.f_copy_(&s)? }",
        "fn f(t: &Tensor) -> Tensor { Tensor::shallow_clone(t) } // t.to_device(d)",
        "fn f(b: Batch) { b.to_device }",
    ];
    for text in good {
        assert_eq!(check("worker/src/exec/x.rs", text), 0, "{text}");
    }
}

#[test]
fn a_flag_in_a_text_of_the_library_is_found() {
    let check = |path: &str, text: &str| places(&FLAGS.check(&[Source::snippet(path, text)]).unwrap()).len();
    let bad = [
        "#[error(\"lower --lr\")] struct E;",
        "fn f() -> String { format!(\"say `--amp bf16` {x}\") }",
        "const S: &str = \"--qat\";",
        "fn f() { g(\"out of place (--opset)\") }",
        "fn f() { g(r#\"run scripts/setup.sh --cuda, then --device\"#) }",
    ];
    for text in bad {
        assert_eq!(check("worker/src/optim/error.rs", text), 1, "{text}");
        assert_eq!(check("worker/src/cli/advice.rs", text), 0, "the command line's own room");
        assert_eq!(check("worker/src/optim/error.rs", &format!("#[cfg(test)] mod tests {{ {text} }}")), 0);
    }
    let good = [
        "/// What `--lr` says.\nfn f() {} // --lr",
        "const S: &str = \"a -- b, c--d, x --> y, 3 --4\";",
        "const S: &str = \"run scripts/setup.sh --cuda\";",
        "fn f(n: i64) -> i64 { n - --n }",
    ];
    for text in good {
        assert_eq!(check("worker/src/optim/error.rs", text), 0, "{text}");
    }
}

#[test]
fn long_and_vaguely_named_files_are_found() {
    const REASONS: &[LongFile] = &[
        LongFile { path: "worker/src/a.rs", reason: "one table" },
        LongFile { path: "worker/src/gone.rs", reason: "was long once" },
    ];
    let lengths = Lengths { limit: 3, reasons: REASONS };
    let long = "\n".repeat(4);
    let files = [
        Source::snippet("worker/src/a.rs", &long),
        Source::snippet("worker/src/b.rs", &long),
        Source::snippet("worker/src/data/utils.rs", ""),
        Source::snippet("coordinator/src/common/mod.rs", ""),
    ];
    assert_eq!(places(&lengths.check(&files)), ["worker/src/b.rs:0", "worker/src/gone.rs:0"]);
    assert_eq!(
        places(&vague_names(&files)),
        ["worker/src/data/utils.rs:0", "coordinator/src/common/mod.rs:0"]
    );
}

#[test]
fn a_write_beside_the_store_is_found() {
    let rules = WriteRules { allowed: &[("worker/src/checkpoint/store.rs", "checkpoints")] };
    let write = "fn f() { std::fs::write(\"x\", \"y\") }";
    let files = [
        Source::snippet("worker/src/checkpoint/store.rs", write),
        Source::snippet("worker/src/export/x.rs", write),
        Source::snippet("worker/src/export/y.rs", "use std::fs::File; fn f() { File::create(\"x\") }"),
        Source::snippet(
            "worker/src/export/z.rs",
            "#[cfg(test)] mod tests { fn f() { std::fs::write(\"x\", \"y\") } }",
        ),
    ];
    assert_eq!(
        places(&rules.check(&files).unwrap()),
        ["worker/src/export/x.rs:1", "worker/src/export/y.rs:1"]
    );
}

#[test]
fn a_dependency_from_elsewhere_or_under_another_licence_is_found() {
    let metadata = r#"{
        "packages": [
            {"id": "app", "name": "app", "version": "1.0.0", "license": "Apache-2.0", "source": null},
            {"id": "mid", "name": "mid", "version": "2.0.0", "license": "GPL-3.0-only OR MIT",
             "source": "registry+https://github.com/rust-lang/crates.io-index"},
            {"id": "tch", "name": "tch", "version": "3.0.0", "license": "GPL-3.0-only",
             "source": "registry+https://github.com/rust-lang/crates.io-index"},
            {"id": "git", "name": "git", "version": "4.0.0", "license": null, "source": "git+ssh://somewhere"}
        ],
        "resolve": {"nodes": [
            {"id": "app", "deps": [{"pkg": "mid", "dep_kinds": [{"kind": null}]},
                                   {"pkg": "git", "dep_kinds": [{"kind": "dev"}]}]},
            {"id": "mid", "deps": [{"pkg": "tch", "dep_kinds": [{"kind": "build"}]}]},
            {"id": "tch", "deps": []},
            {"id": "git", "deps": []}
        ]}
    }"#;
    let tree = Tree::parse(metadata).unwrap();
    let licences = Licences::parse("[licenses]\nallow = [\"MIT\", \"Apache-2.0\"]").unwrap();
    assert_eq!(places(&tree.check(&licences)), ["git 4.0.0:0", "git 4.0.0:0", "tch 3.0.0:0"]);
    assert_eq!(tree.chain("app", &["tch"]).unwrap().as_deref(), Some("app -> mid -> tch"));
    assert_eq!(tree.chain("app", &["git"]).unwrap(), None, "a development dependency is not shipped");
    assert!(tree.chain("nobody", &["tch"]).is_err());
    assert!(Tree::parse("{}").is_err());
}
