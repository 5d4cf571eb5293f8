//! Bad input: one clear message, an exit code that says whether to try again, and nothing lost.

use octrain_tests::run::{SMALL, newest, octrain, refuse, said, succeed, tensors};
use octrain_tests::wire::{Change, tampered};
use octrain_tests::{binary, images, skipped};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Flags of a small network on a folder of three classes.
fn folder_flags(data: &Path) -> Vec<&str> {
    let mut flags = vec!["--image-root", text(data)];
    flags.extend(&SMALL[2..]);
    flags.extend(["--num-of-class", "3", "--batch-size", "8", "--epochs", "1", "--lr", "0.01"]);
    flags
}

/// A run of one step, whose checkpoint others misuse.
fn checkpoint() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let made = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--epochs", "1", "--max-steps", "1", "--batch-size", "16", "--run-scope", "train_only"];
        succeed(&[&["train"], SMALL, &flags, &["--output-dir", text(dir.path())]].concat());
        dir
    });
    made.path()
}

/// A copy of its newest checkpoint that may be damaged.
fn copy(to: &Path) -> PathBuf {
    let from = newest(checkpoint());
    let to = to.join(from.file_name().unwrap());
    fs::create_dir_all(&to).unwrap();
    for file in fs::read_dir(&from).unwrap().flatten() {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    to
}

#[test]
fn one_whole_job_for_each_task_of_another_launcher_is_refused() {
    for (size, rank) in
        [("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")]
    {
        let command = || {
            let mut command = Command::new(octrain_tests::binary("octrain"));
            command.args(["train", "--image-root", "/nowhere"]).env(size, "4").env(rank, "0");
            command
        };
        let output = command().output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        for word in [size, "4 times", "octrain launch --coordinator", "--output-dir"] {
            assert!(told.contains(word), "{told}");
        }
        // One task is a job like any other: it gets as far as the data.
        let told = command().env(size, "1").output().unwrap();
        assert!(String::from_utf8_lossy(&told.stderr).contains("/nowhere"), "{told:?}");
    }
}

#[test]
fn data_that_is_not_there_or_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let told = refuse(2, &[&["train"], &folder_flags(&missing)[..]].concat());
    assert!(told.contains("missing") && told.contains("train"), "{told}");

    let empty = dir.path().join("empty");
    for split in ["train/a", "train/b", "train/c", "val/a", "val/b", "val/c"] {
        fs::create_dir_all(empty.join(split)).unwrap();
    }
    let told = refuse(2, &[&["train"], &folder_flags(&empty)[..]].concat());
    assert!(told.contains("empty"), "{told}");

    let data = images::tree(&dir.path().join("data"), 3, 12, 36);
    let told = refuse(2, &[&["train"], &folder_flags(&data)[..], &["--num-of-class", "5"]].concat());
    assert!(told.contains("say --num-of-class 3"), "{told}");
    let told = refuse(2, &[&["train"], &folder_flags(&data)[..], &["--batch-size", "64"]].concat());
    assert!(told.contains("--batch-size"), "{told}");
}

#[test]
fn corrupt_images_are_named_counted_and_skipped_up_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let data = images::tree(&dir.path().join("data"), 3, 12, 36);
    let output = dir.path().join("out");
    let line =
        [&["train"], &folder_flags(&data)[..], &["--overwrite", "--output-dir", text(&output)]].concat();
    fs::write(data.join("train/b/2.jpg"), b"no image").unwrap();
    let told = succeed(&line);
    assert!(told.contains("train/b/2.jpg"), "{told}");
    let whole = fs::read(data.join("val/a/0.jpg")).unwrap();
    fs::write(data.join("val/a/0.jpg"), &whole[..whole.len() / 3]).unwrap();
    let told = succeed(&line);
    assert!(told.contains("val/a/0.jpg") && told.contains("35 images"), "{told}");
    // An epoch of whole batches leaves four images out; these are more.
    for i in 1..6 {
        fs::write(data.join(format!("train/c/{}.{}", i, if i % 2 == 0 { "jpg" } else { "png" })), b"")
            .unwrap();
    }
    let told = refuse(2, &line);
    assert!(told.contains("--max-corrupt-images"), "{told}");
    succeed(&[&line[..], &["--max-corrupt-images", "6"]].concat());
}

#[test]
fn settings_that_cannot_be_met() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, want) in [
        (&["--batch-size", "16", "--global-batch-size", "50"][..], "--global-batch-size 50"),
        (&["--model-arch-name", "VGG16"], "unknown model `VGG16`"),
        (&["--batch-size", "0"], "--batch-size is 0"),
        (&["--crop-size", "24"], "--crop-size 24"),
        (&["--device", "cuda"], "--device cuda"),
        (&["--qat", "--qat-skip", "layer9.*"], "layer9.*"),
        (&["--from-checkpoint", "nowhere"], "nowhere"),
        (&["--qat", "--qat-weight-bits", "4"], "--qat-weight-bits"),
        (&["--benchmark"], "--run-scope"),
    ] {
        let common = ["--epochs", "1", "--batch-size", "16", "--output-dir", text(dir.path())];
        let told = refuse(2, &[&["train"], SMALL, &common, flags].concat());
        assert!(told.contains(want), "{want} in {told}");
    }
}

#[test]
fn what_is_no_checkpoint_at_all_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    fs::write(&file, "some words and some more of them").unwrap();
    let site = dir.path().join("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("manifest.json"), r#"{"name": "app"}"#).unwrap();
    let output = dir.path().join("out");
    let flags = ["--epochs", "1", "--batch-size", "16", "--max-steps", "1", "--output-dir", text(&output)];
    let train = [&["train"], SMALL, &flags].concat();
    for (flag, path, want) in [
        ("--from-checkpoint", &file, "it is a file"),
        ("--from-checkpoint", &site, "that of something else"),
        ("--resume", &site, "that of something else"),
        ("--from-pretrained-params", &file, "is not a file of weights"),
    ] {
        let told = refuse(2, &[&train[..], &[flag, text(path)]].concat());
        assert!(told.contains(want) && told.contains(text(path)) && !told.contains("damaged"), "{told}");
    }
}

#[test]
fn a_slip_in_a_path_makes_no_folders_and_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("modles/deep/m.onnx");
    for flag in ["--output", "--scale-table"] {
        let line =
            ["export", "--from-checkpoint", text(checkpoint()), "--profile", "fp32", "--output", "x.onnx"];
        let told = refuse(2, &[&line[..], &[flag, text(&file)]].concat());
        assert!(told.contains("no folder `") && told.contains(flag), "{told}");
        assert!(!told.contains("checkpoint 0"), "before anything is read: {told}");
    }
    assert!(!dir.path().join("modles").exists() && !Path::new("x.onnx").exists());
}

#[test]
fn checkpoints_that_are_damaged_or_of_another_run() {
    let dir = tempfile::tempdir().unwrap();
    let damaged = copy(dir.path());
    let model = damaged.join("model.safetensors");
    let whole = fs::read(&model).unwrap();
    fs::write(&model, &whole[..whole.len() / 2]).unwrap();
    let output = dir.path().join("out");
    let flags = ["--epochs", "1", "--batch-size", "16", "--max-steps", "2", "--output-dir", text(&output)];
    let output = octrain(&[&["train"], SMALL, &flags, &["--from-checkpoint", text(&damaged)]].concat());
    assert!(!output.status.success());
    assert!(said(&output).contains("model.safetensors"), "{}", said(&output));
    let output =
        octrain(&["export", "--from-checkpoint", text(&damaged), "--profile", "fp32", "--output", "x.onnx"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("model.safetensors") && !Path::new("x.onnx").exists());
    // One bit is enough to be noticed.
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&model, &flipped).unwrap();
    let output = octrain(&["eval", "--from-checkpoint", text(&damaged), "--show-config", "false"]);
    assert!(!output.status.success() && said(&output).contains("model.safetensors"), "{}", said(&output));

    let start = ["--from-checkpoint", text(checkpoint())];
    let told = refuse(2, &[&["train"], SMALL, &flags, &start, &["--model-arch-name", "ResNet32"]].concat());
    assert!(told.contains("ResNet20") && told.contains("ResNet32"), "{told}");
    let told = refuse(2, &[&["train"], SMALL, &flags, &start, &["--qat"]].concat());
    assert!(told.contains("--from-pretrained-params"), "{told}");
    let start = ["--from-pretrained-params", text(checkpoint())];
    let told = refuse(2, &[&["train"], SMALL, &flags, &start, &["--model-arch-name", "ResNet32"]].concat());
    assert!(told.contains("layer1.3"), "what does not match is listed: {told}");
    let file = dir.path().join("x.onnx");
    let line =
        ["export", "--from-checkpoint", text(checkpoint()), "--profile", "openvino", "--output", text(&file)];
    let told = refuse(2, &line);
    assert!(told.contains("without --qat") && !file.exists(), "{told}");
    fs::write(&file, b"no model").unwrap();
    let told = refuse(2, &["infer", "--model", text(&file), "--image-root", "digits"]);
    assert!(told.contains("not an ONNX file"), "{told}");
}

#[test]
fn ports_and_coordinators() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let flags = ["--epochs", "1", "--batch-size", "16", "--listen", &address];
    let told = refuse(2, &[&["train"], SMALL, &flags].concat());
    assert!(told.contains(&address) && told.to_lowercase().contains("in use"), "{told}");

    drop(taken);
    let line = ["launch", "--coordinator", &address, "--nproc-per-node", "1", "--connect-timeout", "2", "--"];
    let output = octrain(&[&line[..], SMALL, &["--epochs", "1", "--batch-size", "16"]].concat());
    assert!(!output.status.success());
    assert!(said(&output).contains("no coordinator reached"), "{}", said(&output));
}

/// A worker that finds its coordinator behind a wire that changes what is said: it must give up with exit code 2.
/// Returns what worker and coordinator said.
fn behind(there: Option<Change>, back: Option<Change>) -> [String; 2] {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut coordinator = Command::new(binary("octrain-coordinator"))
        .args(["--listen", &free, "--world-size", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let address = tampered(&free, there, back).to_string();
    let dir = tempfile::tempdir().unwrap();
    let line = ["launch", "--coordinator", &address, "--nproc-per-node", "1", "--"];
    let flags = ["--epochs", "1", "--max-steps", "1", "--batch-size", "16", "--output-dir", text(dir.path())];
    let told = refuse(2, &[&line[..], SMALL, &flags].concat());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was written: {told}");
    // A coordinator that has refused a worker waits for others; it need not.
    let _ = coordinator.kill();
    [told, said(&coordinator.wait_with_output().unwrap())]
}

#[test]
fn a_worker_of_another_protocol_version_is_refused() {
    let version = |v: u8| [&[0x08, v, 0x12, 7][..], b"octrain"].concat();
    let ours = u8::try_from(octrain_proto::PROTOCOL_VERSION).unwrap();
    let [told, heard] = behind(Some(Change::new(&version(ours), &version(99))), None);
    for text in [told, heard] {
        assert!(text.contains("99") && text.contains("protocol version"), "{text}");
    }
}

#[test]
fn a_plan_that_was_changed_on_the_way_is_refused() {
    let [told, heard] = behind(None, Some(Change::new(b"channels-last", b"channels-l0st")));
    for text in [told, heard] {
        assert!(text.contains("does not have the hash it claims"), "{text}");
    }
}

#[test]
fn a_loss_that_is_not_a_number_ends_the_run_and_spares_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let good = copy(dir.path());
    let before = fs::read(good.join("model.safetensors")).unwrap();
    let flags = ["--epochs", "2", "--batch-size", "16", "--lr", "1e30", "--nproc", "2"];
    let start = ["--from-pretrained-params", text(&good), "--overwrite", "--output-dir", text(dir.path())];
    let output = octrain(&[&["train"], SMALL, &flags, &start].concat());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = said(&output);
    assert!(told.contains("lower --lr") && told.contains("the last checkpoint is untouched"), "{told}");
    assert_eq!(fs::read(good.join("model.safetensors")).unwrap(), before);
    // A rank that hears of the end while it waits for the other has nothing worth saving either.
    let saved = fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.path().is_dir());
    assert_eq!(saved.map(|e| e.path()).collect::<Vec<_>>(), [good], "{told}");
}

#[test]
fn a_full_disk_loses_nothing_that_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    // A checkpoint is 2.2 MB: two fit, as the run asks for at its start, the third does not.
    let mount = ["-t", "tmpfs", "-o", "size=5m", "tmpfs", text(dir.path())];
    if !Command::new("mount").args(mount).output().is_ok_and(|o| o.status.success()) {
        skipped("a small disk cannot be mounted here (root is needed)");
        return;
    }
    let flags = ["--epochs", "3", "--batch-size", "256", "--lr", "0.01", "--run-scope", "train_only"];
    let output = octrain(&[&["train"], SMALL, &flags, &["--output-dir", text(dir.path())]].concat());
    let told = said(&output);
    let first = dir.path().join("1");
    let kept = first.join("manifest.json").exists().then(|| tensors(&first.join("model.safetensors")));
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    left.sort();
    let eval = ["eval", "--from-checkpoint", text(dir.path()), "--show-config", "false"];
    let again = octrain(&eval);
    let unmounted = Command::new("umount").arg(dir.path()).status().unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.to_lowercase().contains("no space left"), "{told}");
    assert!(kept.is_some_and(|t| t.len() > 50), "the first checkpoint is gone");
    assert_eq!(left, [".lock", "1", "2", "run.json"], "something half-written was left behind");
    let line = told.lines().last().unwrap_or_default();
    assert!(line.contains("octrain train --resume"), "the last line goes on: {told}");
    assert!(again.status.success(), "{}", said(&again));
    assert!(unmounted.success());
}
