//! Octrain as a library: its examples, a crate outside this workspace, its packages.

use octrain_tests::{binary, policy, python};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn done(output: Output) -> String {
    let told =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {told}", output.status);
    told
}

/// Runs an example, which has been built beside the binaries.
fn example(name: &str, arguments: &[&Path]) -> String {
    let path = binary(&format!("examples/{name}"));
    done(Command::new(path).args(arguments).output().unwrap())
}

#[test]
fn a_network_of_ones_own_learns_and_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.onnx");
    assert!(example("own_network", &[&file]).contains("INT8"));
    assert!(file.metadata().unwrap().len() > 5_000);
}

#[test]
fn a_pass_and_an_observer_of_ones_own_are_obeyed() {
    assert!(example("own_pass", &[]).contains("linear-sums: "));
    assert!(example("own_observer", &[]).contains("the median of the three maxima"));
}

#[test]
fn two_processes_train_together_without_a_coordinator() {
    let told = example("two_processes", &[]);
    let end = |rank: &str| {
        let line = told.lines().find(|l| l.starts_with(&format!("rank {rank} ends with "))).unwrap();
        line.rsplit_once(' ').unwrap().1.to_string()
    };
    assert_eq!(end("0"), end("1"), "{told}");
}

#[test]
fn fine_tuning_starts_from_weights_that_pytorch_wrote() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    python.run("save_resnet.py", &["18".as_ref(), at("resnet18.safetensors").as_os_str()]);
    octrain_tests::images::tree(&at("data"), 3, 24, 64);
    let told = example("fine_tune", &[&at("resnet18.safetensors"), &at("data"), &at("int8.onnx")]);
    assert!(told.contains("fc.bias") && told.contains("step 4: loss"), "{told}");
    assert!(at("int8.onnx").metadata().unwrap().len() > 10_000_000);
}

/// The program that `lib.rs` opens with.
fn opening() -> String {
    let text = std::fs::read_to_string(policy::repository().join("worker/src/lib.rs")).unwrap();
    let lines = text.lines().skip_while(|l| !l.starts_with("//! ```")).skip(1);
    let code = lines.take_while(|l| !l.starts_with("//! ```"));
    code.map(|l| l.trim_start_matches("//!").trim_start_matches(' ').to_string() + "\n").collect()
}

#[test]
fn the_readme_shows_a_part_of_that_program() {
    let readme = std::fs::read_to_string(policy::repository().join("README.md")).unwrap();
    let shown = readme.split_once("```rust\n").unwrap().1.split_once("```").unwrap().0;
    let program = opening();
    assert!(shown.lines().count() > 5);
    for line in shown.lines().map(str::trim) {
        assert!(program.contains(line), "{line} is not in the program that lib.rs opens with");
    }
}

/// A crate that knows Octrain by its path only, with the packages' versions of this workspace.
fn crate_outside(folder: &Path) -> PathBuf {
    let root = policy::repository();
    let worker = root.join("worker");
    let manifest = format!(
        "[package]\nname = \"outside\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         octrain = {{ path = {worker:?}, default-features = false }}\ntch = \"0.24\"\n\n\
         [profile.dev.package.\"*\"]\ndebug = false\n"
    );
    std::fs::create_dir_all(folder.join("src")).unwrap();
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    std::fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    std::fs::write(folder.join("src/main.rs"), opening()).unwrap();
    folder.to_path_buf()
}

/// A command in which nothing is exported that tells where libraries are.
fn bare(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for variable in ["LIBTORCH", "OCTRAIN_DEPS", "LD_LIBRARY_PATH", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}

#[test]
fn a_crate_outside_the_workspace_builds_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let outside = crate_outside(&dir.path().join("outside"));
    let set_up = policy::repository().join("scripts/setup.sh");
    done(bare(set_up).arg("--crate").arg(&outside).output().unwrap());
    // Kept between runs: only what changed is compiled anew.
    let target = binary("octrain").parent().unwrap().with_file_name("outside");
    let mut build = bare(env!("CARGO"));
    build.args(["build", "--quiet"]).current_dir(&outside).env("CARGO_TARGET_DIR", &target);
    done(build.output().unwrap());
    let told = done(bare(target.join("debug/outside")).current_dir(&outside).output().unwrap());
    assert!(told.starts_with("loss "), "{told}");
    assert!(outside.join("int8.onnx").exists());
    let tree =
        bare(env!("CARGO")).args(["tree", "--edges", "normal"]).current_dir(&outside).output().unwrap();
    let tree = done(tree);
    for heavy in ["clap v", "tonic v", "tokio v", "openvino v", "ort v", "octrain-coordinator v"] {
        assert!(!tree.contains(heavy), "{heavy} in the tree of the library:\n{tree}");
    }
}

#[test]
fn the_crates_can_be_packaged() {
    let target = binary("octrain").parent().unwrap().with_file_name("packaged");
    let mut package = Command::new(env!("CARGO"));
    package.args(["package", "--workspace", "--exclude", "octrain-tests", "--no-verify", "--allow-dirty"]);
    package.arg("--target-dir").arg(&target).current_dir(policy::repository());
    done(package.output().unwrap());
    for name in ["octrain-core", "octrain-formats", "octrain-proto", "octrain-coordinator", "octrain"] {
        let file = target.join(format!("package/{name}-{}.crate", env!("CARGO_PKG_VERSION")));
        assert!(file.exists(), "{} was not made", file.display());
    }
}
