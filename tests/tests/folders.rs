//! Output folders: one run each, nothing of it lost to another, and easy to go on with.

use octrain_tests::run::{Running, SMALL, newest, octrain, refuse, said, succeed, tensors};
use octrain_tests::skipped;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// `octrain train` of a few steps into a folder.
fn train<'a>(output: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let flags = ["--epochs", "1", "--batch-size", "16", "--lr", "0.01", "--run-scope", "train_only"];
    [&["train"], SMALL, &flags, &["--output-dir", text(output)], more].concat()
}

fn manifest(checkpoint: &Path) -> Value {
    serde_json::from_slice(&fs::read(checkpoint.join("manifest.json")).expect("a manifest")).expect("JSON")
}

/// Names of the checkpoints of a folder, sorted.
fn checkpoints(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|n| n.starts_with(|c: char| c.is_ascii_digit()));
    names.sort();
    names
}

#[test]
fn a_second_run_in_a_used_folder_is_refused_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let told = succeed(&train(dir.path(), &["--max-steps", "4"]));
    assert_eq!(checkpoints(dir.path()), ["0-4"]);
    let first = manifest(&dir.path().join("0-4"));
    let id = first["run"]["id"].as_str().expect("a run has an identity");
    assert!(told.contains(id), "{told}");
    let kept = tensors(&dir.path().join("0-4/model.safetensors"));

    let other = ["--max-steps", "2", "--seed", "7"];
    let told = refuse(2, &train(dir.path(), &other));
    for want in ["0-4", id, "--resume", "--overwrite", "--output-dir"] {
        assert!(told.contains(want), "{want} in {told}");
    }
    // A scheduler that tries again with settings of another training does not go on with it either.
    let again = [&other[..], &["--last-epoch-of-checkpoint", "auto"]].concat();
    let told = refuse(2, &train(dir.path(), &again));
    assert!(told.contains("seed 42, now 7"), "{told}");
    assert_eq!(checkpoints(dir.path()), ["0-4"]);
    assert!(kept == tensors(&dir.path().join("0-4/model.safetensors")));

    // Who is told to overwrite keeps the old checkpoint until the first new one is there.
    let fails = [&other[..], &["--overwrite", "--lr", "1e30", "--max-steps", "9"]].concat();
    let output = octrain(&train(dir.path(), &fails));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(checkpoints(dir.path()), ["0-4"]);
    let told = succeed(&train(dir.path(), &[&other[..], &["--overwrite"]].concat()));
    assert!(told.contains("overwrites 0-4"), "{told}");
    assert_eq!(checkpoints(dir.path()), ["0-2"]);
    let second = manifest(&dir.path().join("0-2"));
    assert_ne!(second["run"]["id"], first["run"]["id"]);
    assert_eq!(second["config"]["overwrite"], false, "who resumes does not overwrite");
}

#[test]
fn a_restarted_command_starts_anew_in_an_empty_folder_and_goes_on_in_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let auto = ["--last-epoch-of-checkpoint", "auto", "--nproc", "2", "--max-steps"];
    let told = succeed(&train(dir.path(), &[&auto[..], &["3"]].concat()));
    assert!(told.contains("starting from initial weights") && told.contains("holds none yet"), "{told}");
    let first = manifest(&dir.path().join("0-3"));
    let told = succeed(&train(dir.path(), &[&auto[..], &["5"]].concat()));
    assert!(told.contains("at epoch 0, step 3"), "{told}");
    assert_eq!(checkpoints(dir.path()), ["0-5"]);
    assert_eq!(manifest(&dir.path().join("0-5"))["run"], first["run"], "it is the same run");
    let told = succeed(&train(dir.path(), &[&auto[..], &["5"]].concat()));
    assert!(told.contains("nothing left to do"), "{told}");
    // From an earlier checkpoint than the furthest, whoever asks for the furthest would get the other branch.
    succeed(&train(dir.path(), &["--nproc", "2", "--last-epoch-of-checkpoint", "auto"]));
    succeed(&train(dir.path(), &["--nproc", "2", "--last-epoch-of-checkpoint", "auto", "--epochs", "2"]));
    assert_eq!(checkpoints(dir.path()), ["1", "2"]);
    let back = ["--nproc", "2", "--last-epoch-of-checkpoint", "1", "--epochs", "2"];
    let told = refuse(2, &train(dir.path(), &back));
    assert!(told.contains("starts from 1") && told.contains("--overwrite"), "{told}");
    assert_eq!(checkpoints(dir.path()), ["1", "2"]);
}

#[test]
fn two_runs_started_at_once_cannot_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let line = train(dir.path(), &["--epochs", "50", "--print-interval", "1"]);
    let mut first = Running::start(&line);
    first.wait_for("step 2/");
    // The first one may soon be gone: it may be tried again.
    let told = refuse(3, &line);
    for want in ["in use", &format!("pid {}", first.id()), "srun", "octrain launch", "since 20"] {
        assert!(told.contains(want), "{want} in {told}");
    }
    first.signal("INT", first.id());
    let (code, told) = first.end();
    assert!(matches!(code, Some(4 | 130)), "{code:?}: {told}");
    // The kernel has let go of the lock.
    let told =
        succeed(&["train", "--resume", text(dir.path()), "--max-steps", "1", "--show-config", "false"]);
    assert!(told.contains("nothing left to do: --max-steps 1"), "{told}");
}

#[test]
fn who_is_asked_to_stop_while_its_folder_is_another_s_ends_with_4_on_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    // Held by a run of another host, which is waited for longer than one of this host.
    let holder = r#"{"host":"elsewhere","boot":"another","pid":1,"since-unix":1}"#;
    fs::write(dir.path().join(".lock"), holder).unwrap();
    let held = fs::File::open(dir.path().join(".lock")).unwrap();
    held.lock().unwrap();
    for nproc in ["1", "2"] {
        let mut run = Running::start(&train(dir.path(), &["--nproc", nproc]));
        run.wait_for("to be let go");
        run.signal("TERM", run.id());
        let (code, told) = run.end();
        assert_eq!(code, Some(4), "{nproc} workers: {told}");
        assert!(told.contains("asked to stop during the wait for its folder"), "{told}");
    }
    drop(held);
}

#[test]
fn the_last_line_after_ctrl_c_goes_on_when_it_is_pasted() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("my run");
    for nproc in ["1", "2"] {
        let output = output.join(nproc);
        let more = ["--nproc", nproc, "--epochs", "40", "--print-interval", "1", "--seed", "3"];
        let mut run = Running::start(&train(&output, &more));
        run.wait_for("step 3/");
        run.signal("INT", run.id());
        let (code, told) = run.end();
        assert!(matches!(code, Some(4 | 130)), "{code:?}: {told}");
        let saved = manifest(&newest(&output));
        let want = format!("octrain train --resume '{}'", text(&output));
        let line = told.lines().rev().find(|l| l.contains("--resume")).expect(&told);
        assert_eq!(line.trim(), want, "{told}");
        // As a shell takes it, with the binary under test for `octrain`.
        let binary = octrain_tests::binary("octrain");
        let step = saved["position"]["global-step"].as_u64().unwrap();
        let command = format!("{} --max-steps {}", want.replacen("octrain", text(&binary), 1), step + 2);
        let shell = Command::new("sh").args(["-c", &command]).output().unwrap();
        let told = said(&shell);
        assert!(shell.status.success(), "{told}");
        assert!(told.contains(&format!("({step} in all)")), "{told}");
        let after = manifest(&newest(&output));
        assert_eq!(after["position"]["global-step"].as_u64(), Some(step + 2));
        for key in ["seed", "epochs", "lr", "batch-size", "nproc", "run-scope"] {
            assert_eq!(after["config"][key], saved["config"][key], "{key}");
        }
        assert_eq!(after["run"], saved["run"]);
    }
}

#[test]
fn a_killed_run_leaves_partials_that_the_next_owner_cleans() {
    let dir = tempfile::tempdir().unwrap();
    succeed(&train(dir.path(), &["--max-steps", "2"]));
    let partial = dir.path().join(".0-3.4711");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("model.safetensors"), b"half").unwrap();
    // Killed between the two renames that replace a checkpoint.
    fs::rename(dir.path().join("0-2"), dir.path().join(".0-2.old")).unwrap();
    fs::create_dir(dir.path().join(".notes")).unwrap();
    let told = succeed(&train(dir.path(), &["--max-steps", "3", "--last-epoch-of-checkpoint", "auto"]));
    assert!(told.contains(".0-3.4711") && told.contains("at epoch 0, step 2"), "{told}");
    assert_eq!(checkpoints(dir.path()), ["0-3"]);
    let mut hidden: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with('.'))
        .collect();
    hidden.sort();
    assert_eq!(hidden, [".lock", ".notes"]);
}

/// A small file system, mounted for a test.
struct Mounted(TempDir);

impl Mounted {
    fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let args = ["-t", "tmpfs", "-o", options, "tmpfs", text(dir.path())];
        if !Command::new("mount").args(args).output().is_ok_and(|o| o.status.success()) {
            skipped("a small disk cannot be mounted here (root is needed)");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_said_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    for nproc in ["1", "2"] {
        let begun = Instant::now();
        let told = refuse(2, &train(&dir.path().join("file/out"), &["--nproc", nproc]));
        assert!(told.contains("file/out") && told.contains("--output-dir"), "{told}");
        assert!(!told.contains("step 1/"), "{told}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    if let Some(disk) = Mounted::new("ro") {
        let told = refuse(2, &train(disk.0.path(), &[]));
        assert!(told.contains("cannot be written") && told.to_lowercase().contains("read-only"), "{told}");
    }
    if let Some(disk) = Mounted::new("size=3m") {
        // Full now, it may have room the next time.
        let told = refuse(1, &train(disk.0.path(), &[]));
        assert!(told.contains("MiB left") && told.contains("two checkpoints"), "{told}");
    }
}

#[test]
fn a_checkpoint_brings_its_runs_settings_to_train() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("run");
    succeed(&train(&output, &["--max-steps", "2", "--seed", "9", "--label-smoothing", "0.05"]));
    let at = newest(&output);
    let told = succeed(&["train", "--from-checkpoint", text(&at), "--max-steps", "3"]);
    assert!(told.contains("seed = 9") && told.contains("label-smoothing = 0.05"), "{told}");
    assert_eq!(checkpoints(&output), ["0-3"], "it goes on in its own folder");
    // Elsewhere it is a run of its own, and what is changed is said.
    let other = dir.path().join("other");
    let line = ["train", "--from-checkpoint", text(&output), "--max-steps", "4", "--show-config", "false"];
    let told = succeed(&[&line[..], &["--lr", "0.5", "--output-dir", text(&other)]].concat());
    assert!(told.contains("lr 0.01, now 0.5"), "{told}");
    let [a, b] = [&output, &other].map(|o| manifest(&newest(o))["run"]["id"].clone());
    assert_ne!(a, b);
}

#[test]
fn another_number_of_workers_keeps_the_global_batch_or_says_that_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    succeed(&train(dir.path(), &["--nproc", "2"]));
    let at: PathBuf = dir.path().join("1");
    assert_eq!(manifest(&at)["global-batch"], 32);
    let line = ["train", "--resume", text(dir.path()), "--epochs", "2", "--show-config", "false"];
    let told = succeed(&[&line[..], &["--nproc", "1", "--max-steps", "46"]].concat());
    assert!(!told.contains("global batch changes"), "{told}");
    assert_eq!(manifest(&newest(dir.path()))["global-batch"], 32);
    fs::remove_dir_all(newest(dir.path())).unwrap();
    let told =
        succeed(&[&line[..], &["--nproc", "1", "--max-steps", "46", "--global-batch-size", "16"]].concat());
    assert!(told.contains("the global batch changes from 32 to 16"), "{told}");
}
