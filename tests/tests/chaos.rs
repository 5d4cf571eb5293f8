//! Workers that die, and people who press Ctrl-C.

use octrain_tests::run::{Running, SMALL, alive, newest, succeed};
use std::path::Path;
use std::time::{Duration, Instant};

/// A long run of two workers with a checkpoint folder.
fn start(output: &Path) -> Running {
    let flags =
        ["--nproc", "2", "--batch-size", "8", "--epochs", "50", "--lr", "0.01", "--print-interval", "1"];
    let mut run = Running::start(
        &[
            &["train"],
            SMALL,
            &flags,
            &["--output-dir", output.to_str().unwrap(), "--run-scope", "train_only"],
        ]
        .concat(),
    );
    run.wait_for("step 2/");
    run
}

/// Whether all of them end within a generous while.
fn all_gone(pids: &[u32]) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if !pids.iter().any(|&p| alive(p)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

#[test]
fn a_worker_that_is_killed_ends_the_job_within_seconds_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path());
    let workers = run.workers();
    assert_eq!(workers.len(), 2);
    let killed = Instant::now();
    run.signal("KILL", workers[1]);
    let (code, told) = run.end();
    assert!(killed.elapsed() < Duration::from_secs(30), "it took {:?}", killed.elapsed());
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("pid {}", workers[1])) && told.contains("signal 9"), "{told}");
    assert!(all_gone(&workers), "a worker outlived its job");
}

#[test]
fn ctrl_c_saves_and_leaves_and_the_run_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path());
    let workers = run.workers();
    run.signal("INT", run.id());
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(all_gone(&workers));
    let kept = newest(dir.path());
    assert!(kept.join("manifest.json").exists());
    let flags = ["--nproc", "2", "--batch-size", "8", "--epochs", "50", "--lr", "0.01", "--max-steps", "1"];
    let line = ["--from-checkpoint", kept.to_str().unwrap(), "--run-scope", "train_only", "--output-dir"];
    let told = succeed(&[&["train"], SMALL, &flags, &line, &[dir.path().to_str().unwrap()]].concat());
    assert!(told.contains("resumed from"), "{told}");
}

#[test]
fn ctrl_c_twice_leaves_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path());
    let workers = run.workers();
    // A worker that does not react holds up the orderly way.
    run.signal("STOP", workers[0]);
    run.signal("INT", run.id());
    // A second one sooner than this counts as an echo of the first.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(alive(run.id()), "the first Ctrl-C waits for the workers");
    run.signal("INT", run.id());
    let asked = Instant::now();
    let (code, told) = run.end();
    assert_eq!(code, Some(130), "{told}");
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    assert!(all_gone(&workers), "a worker outlived its job");
}
