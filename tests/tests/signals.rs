//! Signals at every place of a run, what survivors save, output that nobody reads, and words that explain themselves.

use octrain_tests::binary;
use octrain_tests::run::{Running, SMALL, newest, octrain, said, succeed};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// SIGHUP, or SIGTERM in its place where these tests run under `nohup`: a run leaves ignored what was ignored.
fn hang_up() -> &'static str {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system tells");
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:")).expect("a mask").trim();
    if u64::from_str_radix(ignored, 16).expect("hexadecimal") & 1 == 0 {
        return "HUP";
    }
    octrain_tests::skipped("SIGHUP is ignored here (nohup); SIGTERM was sent in its place");
    "TERM"
}

/// Flags of a run that lasts for as long as a test wants it to.
const LONG: &[&str] =
    &["--nproc", "2", "--batch-size", "8", "--epochs", "50", "--lr", "0.01", "--print-interval", "1"];

/// Two workers that train.
fn start(output: &Path) -> Running {
    let line = ["--output-dir", output.to_str().unwrap(), "--run-scope", "train_only"];
    let mut run = Running::start(&[&["train"], SMALL, LONG, &line].concat());
    run.wait_for("step 2/");
    run
}

/// Sends one signal to several processes.
fn kill(name: &str, pids: &[u32]) {
    let sent = Command::new("kill").arg(format!("-{name}")).args(pids.iter().map(u32::to_string)).status();
    // One that has ended in between cannot be signalled any more.
    assert!(sent.is_ok(), "kill runs");
}

/// Whether a folder holds a checkpoint.
fn saved(folder: &Path) -> bool {
    newest(folder).join("manifest.json").exists()
}

#[test]
fn a_signal_to_every_process_and_again_still_saves() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path());
    let all = [vec![run.id()], run.workers()].concat();
    // Each worker gets it from outside, and passed on by its launcher, several times within a moment.
    kill("TERM", &all);
    kill("TERM", &all);
    kill("INT", &all);
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(saved(dir.path()), "{told}");
    assert!(told.contains("SIGTERM: saves and leaves"), "{told}");
}

#[test]
fn a_signal_to_one_worker_alone_stops_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path());
    kill(hang_up(), &run.workers()[1..]);
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(saved(dir.path()), "{told}");
}

#[test]
fn a_process_alone_counts_a_second_signal_only_some_time_after_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let line = ["--nproc", "1", "--output-dir", dir.path().to_str().unwrap(), "--run-scope", "train_only"];
    let mut run = Running::start(&[&["train"], SMALL, LONG, &line].concat());
    run.wait_for("step 2/");
    let me = [run.id()];
    for name in ["HUP", "TERM", "HUP"] {
        kill(name, &me);
    }
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(saved(dir.path()), "{told}");
}

/// Flags of a network with enough images for an evaluation or calibration that lasts.
fn many(images: &str) -> Vec<&str> {
    let mut line = [&["train"], SMALL, LONG].concat();
    // The last of several is the one that counts.
    line.extend(["--image-root", "synthetic", "--synthetic-images", images]);
    line
}

#[test]
fn a_signal_is_heard_during_an_evaluation_and_the_state_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let line = ["--max-steps", "2", "--output-dir", dir.path().to_str().unwrap()];
    let mut run = Running::start(&[&many("200000")[..], &line].concat());
    // The last line before the evaluation of 200,000 images begins.
    run.wait_for("(median step)");
    let asked = Instant::now();
    kill("TERM", &run.workers()[1..]);
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(!told.contains("val.top1"), "it was evaluated to the end: {told}");
    assert!(newest(dir.path()).ends_with("0-2"), "{told}");
    assert!(asked.elapsed() < Duration::from_secs(60), "it took {:?}", asked.elapsed());
}

#[test]
fn a_signal_is_heard_during_calibration_which_has_nothing_to_save() {
    let dir = tempfile::tempdir().unwrap();
    let line = ["--qat", "--qat-calibration-images", "20000", "--output-dir", dir.path().to_str().unwrap()];
    let mut run = Running::start(&[&many("40000")[..], &line].concat());
    run.wait_for("starting from initial weights");
    kill("TERM", &run.workers()[1..]);
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("asked to stop during calibration"), "{told}");
    assert!(!told.contains("step 1/"), "{told}");
}

#[test]
fn what_a_stopped_run_did_not_measure_is_measured_by_the_one_that_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let flags =
        ["--nproc", "1", "--batch-size", "64", "--epochs", "1", "--lr", "0.01", "--output-dir", folder];
    succeed(&[&["train"], SMALL, &flags, &["--run-scope", "train_only"]].concat());
    let again = ["--from-checkpoint", folder, "--run-scope", "train_eval"];
    let told = succeed(&[&["train"], SMALL, &flags, &again].concat());
    assert!(told.contains("val.top1") && !told.contains("train.loss"), "{told}");
    let manifest = std::fs::read_to_string(newest(dir.path()).join("manifest.json")).unwrap();
    assert!(manifest.contains("val.top1"), "{manifest}");
}

#[test]
fn a_signal_between_epochs_leaves_a_checkpoint_its_evaluation() {
    let dir = tempfile::tempdir().unwrap();
    let recipe =
        ["--qat", "--qat-calibration-images", "16", "--qat-freeze-bn", "0.5", "--qat-bn-images", "3000"];
    let data =
        ["--image-root", "synthetic", "--synthetic-images", "3000", "--batch-size", "32", "--nproc", "1"];
    let line = ["--epochs", "2", "--lr", "0.01", "--output-dir", dir.path().to_str().unwrap()];
    let mut run = Running::start(&[&["train"], SMALL, &data, &recipe, &line].concat());
    // Behind it 3,000 images are looked at before the next step.
    run.wait_for(&format!("saved {}", dir.path().join("1").display()));
    run.signal("TERM", run.id());
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(newest(dir.path()).ends_with("1"), "a step was done after that: {told}");
    let manifest = std::fs::read_to_string(newest(dir.path()).join("manifest.json")).unwrap();
    assert!(manifest.contains("val.top1"), "{manifest}");
}

#[test]
fn a_survivor_saves_what_was_done_whichever_rank_is_killed() {
    for killed in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let run = start(dir.path());
        run.signal("KILL", run.workers()[killed]);
        let (code, told) = run.end();
        // To the launcher, a worker that is killed is a failure of its own.
        assert_eq!(code, Some(1), "{told}");
        assert!(saved(dir.path()), "rank {killed} was killed: {told}");
        assert!(told.contains("though the job was ended"), "{told}");
        // Whoever saved it, it is the run's own, and the run goes on from it.
        let id = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            value.get("run").unwrap_or(&value)["id"].as_str().map(String::from)
        };
        let run = id(&dir.path().join("run.json"));
        assert!(run.is_some());
        assert_eq!(id(&newest(dir.path()).join("manifest.json")), run, "rank {killed} was killed: {told}");
    }
}

#[test]
fn workers_whose_coordinator_is_gone_save_and_ask_to_be_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("coordinator.log");
    let mut coordinator = Command::new(binary("octrain-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--world-size", "2", "--heartbeat-timeout", "2"])
        .stdout(Stdio::piped())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut out = std::io::BufReader::new(coordinator.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut first).unwrap();
    let address = first.trim().trim_start_matches("listening on ");
    let output = dir.path().join("run");
    let place = ["launch", "--coordinator", address, "--nproc-per-node", "2", "--"];
    let line = ["--output-dir", output.to_str().unwrap(), "--run-scope", "train_only"];
    let mut run = Running::start(&[&place, SMALL, &LONG[2..], &line].concat());
    run.wait_for("step 2/");
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    let (code, told) = run.end();
    assert_eq!(code, Some(3), "{told}");
    assert!(saved(&output), "{told}");
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("INFO") && !log.contains('\u{1b}') && !told.contains('\u{1b}'), "{log}");
}

/// Starts `octrain` with an output that nobody reads, and returns how it ended and what it said elsewhere.
fn unread(args: &[&str], stderr: bool) -> (Option<i32>, String) {
    let mut child = Command::new(binary("octrain"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    if !stderr {
        drop(child.stderr.take());
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), said(&output))
}

#[test]
fn training_goes_on_when_nobody_reads_what_it_says() {
    for (nproc, stderr) in [("1", true), ("2", false)] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let flags =
            ["--nproc", nproc, "--batch-size", "8", "--epochs", "1", "--max-steps", "3", "--lr", "0.01"];
        let line =
            ["--print-interval", "1", "--output-dir", folder.to_str().unwrap(), "--run-scope", "train_only"];
        let (code, told) = unread(&[&["train"], SMALL, &flags, &line].concat(), stderr);
        assert_eq!(code, Some(0), "{nproc}: {told}");
        assert!(saved(&folder), "{nproc}: {told}");
        assert!(!told.contains("panicked"), "{told}");
    }
}

#[test]
fn commands_that_only_print_end_quietly_when_nobody_reads() {
    let net = ["--model-arch-name", "ResNet20", "--device", "cpu"];
    for (command, flags) in [
        ("graph", &["--image-shape", "3,32,32", "--crop-size", "32"][..]),
        ("graph", &["--image-shape", "3,32,32", "--crop-size", "32", "--every-pass"]),
        ("plan", &[SMALL, &["--batch-size", "8"]].concat()[..]),
    ] {
        let (code, told) = unread(&[&[command], &net[..], flags].concat(), true);
        assert_eq!((code, told.contains("panicked")), (Some(0), false), "{command}: {told}");
    }
    let (code, _) = unread(&["no-such-command"], false);
    assert_eq!(code, Some(2));
}

#[test]
fn what_cannot_be_written_is_said_once_and_training_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run");
    let flags =
        ["--batch-size", "8", "--epochs", "1", "--max-steps", "3", "--lr", "0.01", "--print-interval", "1"];
    let line = ["--output-dir", folder.to_str().unwrap(), "--run-scope", "train_only"];
    let report = ["--report-file", "/dev/full"];
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(binary("octrain"))
        .args([&["train"], SMALL, &flags, &line, &report].concat())
        .stdout(full)
        .output()
        .unwrap();
    let told = said(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(saved(&folder), "{told}");
    assert_eq!(told.matches("cannot write --report-file `/dev/full`").count(), 1, "{told}");
    assert_eq!(told.matches("standard output cannot be written").count(), 1, "{told}");

    // What only prints has failed then.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let graph = ["graph", "--model-arch-name", "ResNet20", "--image-shape", "3,32,32", "--crop-size", "32"];
    let output = Command::new(binary("octrain")).args(graph).args(["--device", "cpu"]).stdout(full).output();
    assert_eq!(output.unwrap().status.code(), Some(1));
}

#[test]
fn a_second_launch_on_one_host_is_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut coordinator = Command::new(binary("octrain-coordinator"))
        .args(["--listen", "127.0.0.1:0", "--world-size", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut out = std::io::BufReader::new(coordinator.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut first).unwrap();
    let address = first.trim().trim_start_matches("listening on ");
    let place = ["launch", "--coordinator", address, "--nproc-per-node", "1", "--"];
    let line = ["--batch-size", "8", "--output-dir", dir.path().to_str().unwrap()];
    let mut one = Running::start(&[&place, SMALL, &line].concat());
    one.wait_for("waiting for the plan");
    let told = said(&octrain(&[&place, SMALL, &line].concat()));
    assert!(told.contains("--nproc-per-node N") && told.contains("OCTRAIN_HOST"), "{told}");
    kill("TERM", &[one.id()]);
    let (code, told) = one.end();
    assert_eq!(code, Some(4), "{told}");
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
}

#[test]
fn a_signal_to_a_command_of_several_stages_reaches_the_stage_which_saves() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("all");
    let line = ["--output", folder.to_str().unwrap(), "--nproc", "1", "--batch-size", "8"];
    let mut run = Running::start(&[&["quickstart"], &line[..]].concat());
    run.wait_for("step 1");
    kill("TERM", &[run.id()]);
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(saved(&folder.join("fp")), "{told}");
    assert!(told.contains("asked to stop in `octrain train`"), "{told}");
    assert!(!told.contains("$ octrain export"), "{told}");
}

#[test]
fn help_tells_the_exit_codes_from_the_one_table() {
    for (program, command) in
        [("octrain", Some("train")), ("octrain", Some("launch")), ("octrain-coordinator", None)]
    {
        let output = Command::new(binary(program)).args(command).arg("--help").output().unwrap();
        let text = said(&output);
        for row in octrain_coordinator::exit_code::TABLE {
            assert!(text.contains(&format!("{:>3}  {}", row.code, row.meaning)), "{program}: {text}");
        }
    }
    assert!(said(&octrain(&["--help"])).contains("octrain glossary"));
    let words = said(&octrain(&["glossary"]));
    for word in ["generation", "superset", "LSB", "dB", "dead"] {
        assert!(words.contains(word), "{word} is not in the glossary");
    }
}
