//! Output that nobody reads: training goes on, a signal is obeyed, and the state is saved.

use octrain_tests::binary;
use octrain_tests::run::{DEADLINE, SMALL, newest, report};
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Standard output and standard error of a process, full to the brim. Nobody reads while the reader is kept.
fn full() -> (PipeReader, Stdio, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut fill = writer.try_clone().unwrap();
    // Goes on as long as the pipe, so that there is never any room.
    std::thread::spawn(move || while fill.write_all(&[b'x'; 4096]).is_ok() {});
    std::thread::sleep(Duration::from_millis(500));
    (reader, writer.try_clone().unwrap().into(), writer.into())
}

fn until(what: &str, child: &mut Child, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        let ended = child.try_wait().unwrap();
        if ended.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            panic!("no {what}, {ended:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ends(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Steps that a run has reported to its file.
fn steps(file: &Path) -> usize {
    if file.exists() { report(file, "step").len() } else { 0 }
}

/// Lets a run train for a while, then asks it to stop; none of its words are read.
fn trains_and_saves(how: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.jsonl");
    let (reader, out, err) = full();
    let paths = ["--output-dir", dir.path().to_str().unwrap(), "--report-file", file.to_str().unwrap()];
    let flags = ["--batch-size", "8", "--epochs", "50", "--max-steps", "0", "--lr", "0.01"];
    let speaks = ["--print-interval", "1", "--run-scope", "train_only"];
    let mut run = Command::new(binary("octrain"))
        .args([how, SMALL, &flags, &speaks, &paths].concat())
        .stdout(out)
        .stderr(err)
        .spawn()
        .unwrap();
    // Each of them says something.
    until("training", &mut run, || steps(&file) >= 5);
    let sent = Command::new("kill").args(["-TERM", &run.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(ends(&mut run), Some(4), "{how:?}");
    assert!(newest(dir.path()).join("manifest.json").exists(), "{how:?}");
    drop(reader);
}

#[test]
fn a_worker_alone_trains_and_saves_though_nobody_reads() {
    trains_and_saves(&["train", "--nproc", "1"]);
}

#[test]
fn a_launcher_and_its_workers_train_and_save_though_nobody_reads() {
    trains_and_saves(&["train", "--nproc", "2"]);
}

#[test]
fn the_debug_mode_trains_and_saves_though_nobody_reads() {
    trains_and_saves(&["debug", "--overwrite"]);
}

#[test]
fn a_launch_and_its_coordinator_train_and_save_though_nobody_reads() {
    let (reader, _, err) = full();
    let mut coordinator = Command::new(binary("octrain-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--world-size", "2"])
        .stdout(Stdio::piped())
        .stderr(err)
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(coordinator.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let address = first.trim().trim_start_matches("listening on ").to_string();
    trains_and_saves(&["launch", "--coordinator", &address, "--nproc-per-node", "2", "--"]);
    assert_eq!(ends(&mut coordinator), Some(4));
    drop(reader);
}
