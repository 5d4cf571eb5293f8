//! A worker that lives and does not go on, as a process: what is said of it, and that nothing else comes of it.

use octrain_tests::images::tree;
use octrain_tests::run::{DEADLINE, Running, SMALL, octrain, said};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Which of the processes has a file open, as one is about to.
fn opened_by(pids: &[u32], file: &Path) -> usize {
    let has_open = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target == file)
    };
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(at) = pids.iter().position(has_open) {
            return at;
        }
        assert!(Instant::now() < until, "none of {pids:?} has opened {}", file.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An image that nobody can read on: a pipe in its place. Returns what was in it.
fn stop_up(image: &Path) -> PathBuf {
    let kept = image.with_extension("kept");
    let pipe = image.with_extension("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    fs::hard_link(image, &kept).expect("the image is kept");
    fs::rename(&pipe, image).expect("the pipe is put in its place");
    kept
}

#[test]
fn a_worker_that_waits_for_an_image_is_named_with_the_reduction_that_the_other_waits_in() {
    let dir = tempfile::tempdir().unwrap();
    let images = fs::canonicalize(tree(&dir.path().join("images"), 2, 16, 32)).unwrap();
    let output = dir.path().join("out");
    let flags = ["--batch-size", "4", "--epochs", "100000", "--lr", "0.001", "--threads", "1"];
    let paths = ["--image-root", text(&images), "--output-dir", text(&output), "--num-of-class", "2"];
    let more = ["--run-scope", "train_only", "--print-interval", "1", "--save-interval", "100000"];
    let mut run = Running::start(&[&["train", "--nproc", "2"], SMALL, &flags, &paths, &more].concat());
    let line = run.wait_for("octrain status ");
    let status: Vec<String> =
        line.split("octrain status ").nth(1).unwrap().split(' ').map(str::to_string).collect();
    // All know how long a step takes.
    run.wait_for("epoch 3 ");
    let image = images.join("train/a/0.jpg");
    let kept = stop_up(&image);

    let told = run.wait_for("which waits for the images of its next step; ");
    // Whoever it is has opened it by then.
    let mut pipe = fs::OpenOptions::new().write(true).open(&image).unwrap();
    let workers = run.workers();
    let hung = opened_by(&workers, &image);
    for part in [
        "no progress for ".to_string(),
        format!("is not entered by rank {hung} ("),
        format!("in it waits rank {}", 1 - hung),
        "all_reduce ".to_string(),
        " bytes)".to_string(),
    ] {
        assert!(told.contains(&part), "{part} is not in {told}");
    }
    let asked = octrain(
        &[&["status"], &status.iter().map(String::as_str).collect::<Vec<_>>()[..], &["--json"]].concat(),
    );
    let json: serde_json::Value =
        serde_json::from_slice(&asked.stdout).unwrap_or_else(|_| panic!("{}", said(&asked)));
    let notice = json["notices"].as_array().and_then(|all| all.last()).unwrap_or_else(|| panic!("{json}"));
    assert_eq!((&notice["kind"], &notice["operation"]), (&"hang".into(), &"all_reduce".into()), "{json}");
    assert_eq!(
        (notice["ranks"][0].as_u64(), notice["lasted_ms"].as_u64()),
        (Some(hung as u64), None),
        "{json}"
    );
    assert_eq!(json["phase"], "running");

    let whole = fs::read(&kept).unwrap();
    fs::rename(&kept, &image).unwrap();
    pipe.write_all(&whole).unwrap();
    drop(pipe);
    run.wait_for("is over after ");
    run.signal("INT", run.id());
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(!told.contains("corrupt"), "{told}");
}
