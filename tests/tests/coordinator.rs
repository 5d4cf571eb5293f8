//! A coordinator process and real workers: what becomes of the one when the other is stopped, ends or dies.

use octrain_tests::binary;
use octrain_tests::run::{Running, SMALL};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A coordinator of one worker, and where it listens. Its log is not looked at.
fn coordinator() -> (Child, String) {
    let mut child = Command::new(binary("octrain-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--world-size", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().strip_prefix("listening on ").unwrap().to_string())
}

fn launch(address: &str, steps: &str, output: &Path) -> Running {
    let line = ["launch", "--coordinator", address, "--nproc-per-node", "1", "--"];
    let flags = ["--batch-size", "8", "--epochs", "50", "--max-steps", steps, "--print-interval", "1"];
    let output = ["--run-scope", "train_only", "--threads", "1", "--output-dir", output.to_str().unwrap()];
    Running::start(&[&line, SMALL, &flags, &output].concat())
}

fn code(mut child: Child) -> Option<i32> {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("it does not end");
}

#[test]
fn a_worker_that_is_done_ends_well_though_its_coordinator_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut coordinator, address) = coordinator();
    let mut run = launch(&address, "12", dir.path());
    run.wait_for("step 11/");
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
}

/// `octrain status`, its exit code and what it said on standard output.
fn status(address: &str, more: &[&str]) -> (Option<i32>, String) {
    let done = Command::new(binary("octrain")).args(["status", address]).args(more).output().unwrap();
    (done.status.code(), String::from_utf8(done.stdout).unwrap())
}

#[test]
fn whoever_asks_is_told_what_the_job_is_doing() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, address) = coordinator();
    let (ended, told) = status(&address, &[]);
    assert_eq!(ended, Some(0), "{told}");
    assert!(told.contains("gathering, generation 1, 0 of 1 workers here"), "{told}");
    let mut run = launch(&address, "0", dir.path());
    run.wait_for("step 2/");
    let (ended, told) = status(&address, &["--json"]);
    assert_eq!(ended, Some(0), "{told}");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["phase"], "running");
    assert!(told["report"]["step"].as_u64() >= Some(1) && told["report"]["loss"].is_f64(), "{told}");
    assert_eq!((&told["members"][0]["rank"], &told["members"][0]["state"]), (&0.into(), &"here".into()));
    assert!(told["generations"][0]["stepped_ms"].is_u64(), "{told}");
    let mut watching = Command::new(binary("octrain"))
        .args(["status", &address, "--watch", "--interval", "0.2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watching.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let running = lines.filter(|line| line.contains("running, generation 1, 1 of 1 workers here"));
    assert_eq!(running.take(2).count(), 2);
    let mut rest = BufReader::new(watching.stdout.take().unwrap());
    let rest = std::thread::spawn(move || std::io::copy(&mut rest, &mut std::io::sink()));
    run.signal("TERM", run.id());
    run.end();
    // The coordinator stays until whoever watches has seen the end.
    assert_eq!((code(watching), code(coordinator)), (Some(0), Some(4)));
    rest.join().unwrap().unwrap();
    let (ended, told) = status(&address, &[]);
    assert_eq!((ended, told.as_str()), (Some(1), ""));
    assert_eq!(status(&address, &["--watch", "--interval=-1"]).0, Some(2));
    assert_eq!(status("here", &[]).0, Some(2));
}

#[test]
fn a_worker_that_is_asked_to_stop_makes_the_coordinator_end_as_preempted() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, address) = coordinator();
    let mut run = launch(&address, "0", dir.path());
    run.wait_for("step 2/");
    run.signal("TERM", run.id());
    let (ended, told) = run.end();
    assert_ne!(ended, Some(0), "{told}");
    assert_eq!(code(coordinator), Some(4), "{told}");
}

#[test]
fn a_launcher_that_is_stopped_for_a_while_goes_on_with_its_job() {
    let dir = tempfile::tempdir().unwrap();
    let flags =
        ["--nproc", "2", "--batch-size", "8", "--epochs", "50", "--print-interval", "1", "--lr", "0.01"];
    let output = ["--run-scope", "train_only", "--output-dir", dir.path().to_str().unwrap()];
    let mut run = Running::start(&[&["train"], SMALL, &flags, &output].concat());
    run.wait_for("step 2/");
    // Its embedded coordinator is stopped across the deadline of 5 s, and the workers go on.
    for stall in [2500, 4500] {
        run.signal("STOP", run.id());
        std::thread::sleep(Duration::from_millis(stall));
        run.signal("CONT", run.id());
        std::thread::sleep(Duration::from_secs(6));
    }
    run.signal("INT", run.id());
    let (_, told) = run.end();
    for fault in ["is lost", "was ended", "not answered for"] {
        assert!(!told.contains(fault), "{fault} in {told}");
    }
    assert!(told.matches("was held up").count() <= 2, "{told}");
}
