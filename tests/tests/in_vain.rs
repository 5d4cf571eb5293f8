//! One node that cannot be run as configured: the others and the coordinator do not wait for it in vain.

use octrain_tests::binary;
use octrain_tests::run::{DEADLINE, SMALL, said};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

/// A coordinator of nodes of one worker that would wait for a day.
struct Job {
    coordinator: Child,
    address: String,
}

impl Job {
    fn start() -> Self {
        Self::of(2, &[])
    }

    fn of(nodes: u32, options: &[&str]) -> Self {
        let mut coordinator = Command::new(binary("octrain-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--register-timeout", "86400"])
            .args(["--world-size", &nodes.to_string()])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(coordinator.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let address = first.trim().trim_start_matches("listening on ").to_string();
        Self { coordinator, address }
    }

    /// One node's launcher; `flags` is what stands behind its `--`.
    fn node(&self, host: &str, options: &[&str], flags: &[&str]) -> Child {
        Command::new(binary("octrain"))
            .args(["launch", "--coordinator", &self.address, "--nproc-per-node", "1"])
            .args(options)
            .arg("--")
            .args(SMALL)
            .args(["--batch-size", "8", "--output-dir", "nowhere"])
            .args(flags)
            .env("OCTRAIN_HOST", host)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// Reads standard error until a line with `text`; what follows is read on, so that nobody waits for it.
fn wait_for(child: &mut Child, text: &str) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(text)), "no `{text}`");
    std::thread::spawn(move || lines.for_each(drop));
}

fn end(mut child: Child) -> Output {
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it waits: {}", said(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// Both nodes and the coordinator end with 2, and the coordinator says why.
fn all_end(job: Job, good: Child, bad: Child, words: &[&str]) {
    let bad = end(bad);
    assert_eq!(bad.status.code(), Some(2), "{}", said(&bad));
    let good = end(good);
    assert_eq!(good.status.code(), Some(2), "{}", said(&good));
    let coordinator = end(job.coordinator);
    let told = said(&coordinator);
    assert_eq!(coordinator.status.code(), Some(2), "{told}");
    for word in words {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
}

fn settings(folder: &Path, text: &str) -> String {
    let file = folder.join("train.toml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_string()
}

#[test]
fn a_typo_in_the_settings_of_one_node_ends_all_with_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let file = settings(dir.path(), "epoch = 3\n");
    let job = Job::start();
    let mut good = job.node("a", &[], &[]);
    wait_for(&mut good, "waiting for the plan");
    let bad = job.node("b", &[], &["--config", &file]);
    all_end(job, good, bad, &["cannot be run as configured", "host b", "epoch"]);
}

#[test]
fn flags_that_are_misspelt_end_all_with_their_words() {
    for (options, flags, word) in
        [(&[][..], &["--epoch", "3"][..], "--epoch"), (&["--plan-timeuot", "3"], &[], "--plan-timeuot")]
    {
        let job = Job::start();
        let mut good = job.node("a", &[], &[]);
        wait_for(&mut good, "waiting for the plan");
        let bad = job.node("b", options, flags);
        all_end(job, good, bad, &["host b", word]);
    }
}

#[test]
fn a_node_that_comes_later_ends_with_2_as_well() {
    let job = Job::of(3, &[]);
    let mut good = job.node("a", &[], &[]);
    wait_for(&mut good, "waiting for the plan");
    assert_eq!(end(job.node("b", &[], &["--epoch", "3"])).status.code(), Some(2));
    assert_eq!(end(good).status.code(), Some(2));
    // Longer than the coordinator stays for those whom it knows.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let late = end(job.node("c", &[], &[]));
    assert_eq!(late.status.code(), Some(2), "{}", said(&late));
    assert!(said(&late).contains("--epoch"), "{}", said(&late));
    let coordinator = end(job.coordinator);
    assert_eq!(coordinator.status.code(), Some(2), "{}", said(&coordinator));
}

#[test]
fn the_coordinator_goes_when_nobody_else_comes() {
    let job = Job::of(3, &["--linger-for-late", "1"]);
    assert_eq!(end(job.node("b", &[], &["--epoch", "3"])).status.code(), Some(2));
    let coordinator = end(job.coordinator);
    assert_eq!(coordinator.status.code(), Some(2), "{}", said(&coordinator));
}

#[test]
fn a_node_that_is_configured_differently_ends_all_of_them() {
    let job = Job::start();
    let mut good = job.node("a", &[], &[]);
    wait_for(&mut good, "waiting for the plan");
    let bad = job.node("b", &[], &["--seed", "7"]);
    all_end(
        job,
        good,
        bad,
        &["host b local 0 is configured differently from host a local 0", "seed: 7 against"],
    );
}

#[test]
fn a_second_launch_on_a_host_that_is_there_ends_nothing() {
    let job = Job::start();
    let mut good = job.node("a", &[], &["--epochs", "1", "--max-steps", "1", "--run-scope", "train_only"]);
    wait_for(&mut good, "waiting for the plan");
    let second = end(job.node("a", &[], &["--epoch", "3"]));
    assert_eq!(second.status.code(), Some(2), "{}", said(&second));
    assert!(
        said(&second).contains("not told") && said(&second).contains("is taken by pid"),
        "{}",
        said(&second)
    );
    // The coordinator still waits, and says so when it is stopped.
    let sent = Command::new("kill").args(["-TERM", &job.coordinator.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let coordinator = end(job.coordinator);
    assert_eq!(coordinator.status.code(), Some(4), "{}", said(&coordinator));
    assert_eq!(end(good).status.code(), Some(3));
}

#[test]
fn workers_are_counted_by_the_launcher_s_own_flag() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(binary("octrain"))
        .args(["launch", "--coordinator", "127.0.0.1:1", "--connect-timeout", "1", "--nproc-per-node", "1"])
        .args(["--", "--nproc", "4"])
        .args(SMALL)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("--nproc-per-node N"), "{}", said(&output));
}
