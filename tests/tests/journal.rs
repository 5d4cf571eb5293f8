//! A coordinator that keeps a journal, killed and started anew while real workers train.

use octrain_tests::binary;
use octrain_tests::run::{Running, SMALL, events, named, newest, report};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Time in which a process that has nothing to wait for ends.
const SOON: Duration = Duration::from_secs(60);

/// Where one job's coordinators listen, and what they keep.
struct Place {
    dir: tempfile::TempDir,
    address: String,
    world: String,
    more: Vec<String>,
}

impl Place {
    fn new(world: u32, more: &[&str]) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let more = more.iter().map(|s| s.to_string()).collect();
        Self { dir: tempfile::tempdir().unwrap(), address, world: world.to_string(), more }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command of a coordinator, with other settings in the place of some.
    fn command(&self, other: &[(&str, &str)]) -> Command {
        let journal = self.at("journal");
        let all = [
            ("--listen", self.address.as_str()),
            ("--world-size", &self.world),
            ("--heartbeat-timeout", "1"),
            ("--journal-file", journal.to_str().unwrap()),
        ];
        let mut command = Command::new(binary("octrain-coordinator"));
        for (flag, value) in all.iter().filter(|(flag, _)| !other.iter().any(|(o, _)| o == flag)).chain(other)
        {
            command.args([flag, value]);
        }
        command.args(&self.more).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A coordinator that listens.
    fn coordinator(&self) -> Coordinator {
        let mut child = self.command(&[]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if !line.starts_with("listening on ") {
            panic!("{}", said(&child.wait_with_output().unwrap()));
        }
        let mut log = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).map(|_| text).unwrap()
        });
        Coordinator { child, log }
    }

    /// One that does not come to listen.
    fn refused(&self, other: &[(&str, &str)]) -> (Option<i32>, String) {
        let output = self.command(other).output().unwrap();
        (output.status.code(), said(&output))
    }

    /// A launcher of workers.
    fn launch(&self, host: &str, nproc: &str, steps: &str) -> Running {
        self.launch_with(host, nproc, steps, &[])
    }

    fn launch_with(&self, host: &str, nproc: &str, steps: &str, more: &[&str]) -> Running {
        let line = ["launch", "--coordinator", &self.address, "--nproc-per-node", nproc];
        let flags =
            ["--max-restarts", "0", "--", "--batch-size", "4", "--epochs", "50", "--max-steps", steps];
        let (file, output) = (self.at("report.jsonl"), self.at("out"));
        let paths = ["--report-file", file.to_str().unwrap(), "--output-dir", output.to_str().unwrap()];
        let how = ["--print-interval", "1", "--run-scope", "train_only", "--threads", "1", "--lr", "0.002"];
        let line = [&line[..], &flags, SMALL, &how, &paths, more].concat();
        Running::start_with(&line, &[("OCTRAIN_HOST", host)])
    }

    fn status(&self) -> serde_json::Value {
        let asked =
            Command::new(binary("octrain")).args(["status", &self.address, "--json"]).output().unwrap();
        serde_json::from_slice(&asked.stdout).unwrap_or_default()
    }

    fn steps(&self) -> Vec<u64> {
        let of = |l: &serde_json::Value| l["global_step"].as_u64().unwrap();
        report(&self.at("report.jsonl"), "step").iter().map(of).collect()
    }

    /// Seconds that each step took.
    fn times(&self) -> Vec<f64> {
        let of = |l: &serde_json::Value| l["train.batch_time"].as_f64().unwrap();
        report(&self.at("report.jsonl"), "step").iter().map(of).collect()
    }
}

fn said(output: &Output) -> String {
    octrain_tests::run::said(output)
}

struct Coordinator {
    child: Child,
    log: std::thread::JoinHandle<String>,
}

impl Coordinator {
    /// As when its machine is gone.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; its exit code and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.log.join().unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().unwrap();
        panic!("it does not end:\n{}", self.log.join().unwrap());
    }
}

/// The step that a line tells of.
fn step_of(line: &str) -> u64 {
    let of = line.split(" step ").nth(1).and_then(|rest| rest.split('/').next());
    of.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no step in {line}"))
}

fn all(steps: u64) -> Vec<u64> {
    (1..=steps).collect()
}

#[test]
fn training_does_not_notice_that_its_coordinator_is_killed_and_started_anew() {
    let told_to = tempfile::NamedTempFile::new().unwrap();
    let place = Place::new(2, &["--event-file", told_to.path().to_str().unwrap()]);
    let first = place.coordinator();
    let mut run = place.launch("a", "2", "400");
    run.wait_for("step 5/");
    first.kill();
    let away = Instant::now();
    // For longer than workers wait for a coordinator that keeps nothing.
    while away.elapsed() < Duration::from_secs(3) {
        run.wait_for(" step ");
    }
    let before = step_of(&run.wait_for(" step "));
    let (second, back) = (place.coordinator(), Instant::now());
    run.wait_for("the coordinator answers again after ");
    let back = back.elapsed();
    let status = place.status();
    assert_eq!((&status["generation"], &status["phase"]), (&1.into(), &"running".into()), "{status}");
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert!(before > 7, "the workers stood still at step {before}:\n{told}");
    assert_eq!(place.steps(), all(400), "{told}");
    assert!(report(&place.at("report.jsonl"), "regroup").is_empty(), "{told}");
    let (ended, log) = second.end();
    assert_eq!(ended, Some(0), "{log}");
    assert!(log.contains("as coordinator of term 2: generation 1 runs; 2 workers are expected"), "{log}");
    // The second one goes on in the file.
    let told = events(told_to.path());
    let begun: Vec<_> = told.iter().filter(|e| e["event"] == "coordinator_started").collect();
    assert_eq!([&begun[0]["term"], &begun[1]["term"]], [&1, &2], "{told:#?}");
    assert_eq!((begun.len(), &begun[0]["run"]), (2, &begun[1]["run"]), "{told:#?}");
    assert_eq!(begun[1]["phase"], "running");
    let course =
        named(&told, &["generation_formed", "generation_over", "worker_done", "job_finished", "report"]);
    let want = ["generation_formed", "worker_done", "worker_done", "job_finished", "report"];
    assert_eq!(course, want.map(|name| (name.to_string(), 1)), "{told:#?}");
    let times = place.times();
    let (with, without) = (&times[before as usize..], &times[5..before as usize]);
    let longest = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
    println!(
        "back after {:.2} s; a step took {:.3} s on average and {:.3} s at most while the coordinator was away ({} steps), and {:.3} s and {:.3} s after that",
        back.as_secs_f64(),
        mean(without),
        longest(without),
        without.len(),
        mean(with),
        longest(with)
    );
    // Generous: a machine may be busy with other tests.
    assert!(back < Duration::from_secs(10), "{back:?}");
    // All is over, and everybody knows.
    let (code, told) = place.refused(&[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("has ended: all its workers were done"), "{told}");
}

#[test]
fn a_coordinator_that_dies_while_workers_gather_finds_those_that_had_come() {
    let place = Place::new(2, &[]);
    let first = place.coordinator();
    let one = place.launch("a", "1", "4");
    let begun = Instant::now();
    while !place.status()["members"][0]["host"].is_string() {
        assert!(begun.elapsed() < SOON);
        std::thread::sleep(Duration::from_millis(50));
    }
    first.kill();
    std::thread::sleep(Duration::from_millis(2500));
    let second = place.coordinator();
    assert_eq!(place.status()["members"][0]["host"], "a");
    let two = place.launch("b", "1", "4");
    for run in [one, two] {
        let (code, told) = run.end();
        assert_eq!(code, Some(0), "{told}");
    }
    assert_eq!(place.steps(), all(4));
    assert_eq!(second.end().0, Some(0));
}

#[test]
fn a_worker_that_dies_while_the_coordinator_is_away_costs_no_step() {
    let place = Place::new(3, &["--min-world", "1"]);
    let first = place.coordinator();
    let mut run = place.launch("a", "3", "30");
    run.wait_for("step 4/");
    let workers = run.workers();
    first.kill();
    run.wait_for(" step ");
    run.signal("KILL", workers[2]);
    std::thread::sleep(Duration::from_millis(2500));
    let (second, back) = (place.coordinator(), Instant::now());
    run.wait_for("generation 2: 2 workers");
    println!(
        "formed without the one that had died {:.2} s after the coordinator was back",
        back.elapsed().as_secs_f64()
    );
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(place.steps(), all(30), "{told}");
    let (ended, log) = second.end();
    assert_eq!(ended, Some(0), "{log}");
    assert!(log.contains("its launcher saw that it was killed by signal 9"), "{log}");
}

#[test]
fn without_a_minimum_a_worker_that_dies_meanwhile_is_named_and_a_survivor_saves() {
    let place = Place::new(2, &[]);
    let first = place.coordinator();
    let mut run = place.launch("a", "2", "0");
    run.wait_for("step 4/");
    let workers = run.workers();
    first.kill();
    // The one that writes: the other has to hear from the next coordinator that it is the one to save.
    run.signal("KILL", workers[0]);
    std::thread::sleep(Duration::from_secs(7));
    let second = place.coordinator();
    let (code, told) = run.end();
    // The launcher ends as the one that was killed.
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("though the job was ended"), "{told}");
    assert!(newest(&place.at("out")).is_dir());
    let (ended, log) = second.end();
    assert_eq!(ended, Some(3), "{log}");
    assert!(
        log.contains("rank 0") && log.contains("its launcher saw that it was killed by signal 9"),
        "{log}"
    );
}

#[test]
fn a_coordinator_that_dies_while_a_generation_is_formed_forms_it_when_it_is_back() {
    let place = Place::new(3, &["--min-world", "1"]);
    let first = place.coordinator();
    let mut run = place.launch("a", "3", "30");
    run.wait_for("step 4/");
    let workers = run.workers();
    // One that stands still is waited for: what is left cannot be formed.
    run.signal("STOP", workers[1]);
    run.signal("KILL", workers[2]);
    run.wait_for("generation 1 is over");
    first.kill();
    std::thread::sleep(Duration::from_millis(1500));
    let second = place.coordinator();
    run.signal("CONT", workers[1]);
    run.wait_for("generation 2: 2 workers");
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(place.steps(), all(30), "{told}");
    let (ended, log) = second.end();
    assert_eq!(ended, Some(0), "{log}");
    assert!(log.contains("generation 2 is to be formed, since: "), "{log}");
}

#[test]
fn workers_whose_coordinator_does_not_come_back_save_and_end_to_be_tried_again() {
    let place = Place::new(2, &["--coordinator-timeout", "4"]);
    let first = place.coordinator();
    let mut run = place.launch("a", "2", "0");
    run.wait_for("step 3/");
    first.kill();
    let away = Instant::now();
    run.wait_for("the coordinator does not answer");
    let (code, told) = run.end();
    assert_eq!(code, Some(3), "{told}");
    assert!(away.elapsed() > Duration::from_secs(4), "{:?}", away.elapsed());
    for part in ["has not answered for", "though the job was ended"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(newest(&place.at("out")).is_dir());
}

#[test]
fn a_checkpoint_waits_for_the_coordinators_word_and_appears_once_it_is_back() {
    let place = Place::new(2, &["--min-world", "1"]);
    let first = place.coordinator();
    let mut run = place.launch_with("a", "2", "60", &["--save-interval-steps", "40"]);
    run.wait_for("step 3/");
    first.kill();
    run.wait_for("step 40/");
    let told = run.wait_for("has to wait for the coordinator's word");
    assert!(told.contains("local 0]"), "{told}");
    assert!(!place.at("out").join("0-40").exists());
    let second = place.coordinator();
    run.wait_for("saved ");
    assert!(place.at("out").join("0-40").join("manifest.json").is_file());
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(place.steps(), all(60), "{told}");
    assert!(report(&place.at("report.jsonl"), "regroup").is_empty(), "{told}");
    assert_eq!(second.end().0, Some(0));
}

#[test]
fn a_coordinator_that_cannot_keep_what_it_is_to_tell_tells_it_to_nobody() {
    let place = Place::new(1, &[]);
    // A file of 1 KiB at most, as on a disk that is full after that; not even one worker fits into it.
    let command = place.command(&[]);
    let full = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let run = place.launch("a", "1", "3");
    let ended = full.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    let told = said(&ended);
    assert!(told.contains("cannot write to the journal") && told.contains("File too large"), "{told}");
    assert!(told.contains("a coordinator that is started anew with this journal finds them"), "{told}");
    let second = place.coordinator();
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    let (ended, log) = second.end();
    assert_eq!(ended, Some(0), "{log}");
    // Nothing is left of what was told to nobody: the one that could not write it has cut it off.
    assert!(log.contains("goes on with the job of ") && !log.contains("never finished"), "{log}");
}

/// Changes a byte of a file, counted from its end.
fn damage(path: &Path, from_the_end: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - from_the_end;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_journal_that_is_not_this_coordinators_is_one_message() {
    let place = Place::new(2, &[]);
    let first = place.coordinator();
    let journal = place.at("journal");
    let (code, told) = place.refused(&[("--listen", "127.0.0.1:0")]);
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("belongs to a coordinator that runs"), "{told}");
    first.kill();
    for (flag, value, words) in [
        ("--job-id", "other", "--job-id was octrain, and is other"),
        ("--min-world", "1", "--min-world was 2, and is 1"),
        ("--journal-file", place.dir.path().to_str().unwrap(), "is no regular file"),
        ("--coordinator-timeout", "1", "--coordinator-timeout is 1s, less than twice --heartbeat-timeout"),
    ] {
        let (code, told) = place.refused(&[(flag, value)]);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(words) && told.lines().count() == 1, "{words} in {told}");
    }
    // An append that was cut short.
    let whole = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, [&whole[..], &[7, 0, 0]].concat()).unwrap();
    let second = place.coordinator();
    second.kill();
    let grown = std::fs::read(&journal).unwrap();
    assert!(grown.len() > whole.len() && grown.starts_with(&whole));
    damage(&journal, grown.len() - whole.len() + 3);
    let (code, told) = place.refused(&[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("cannot be relied on: its entry 0") && told.contains("move it away"), "{told}");
    std::fs::write(&journal, "{}\n").unwrap();
    let (code, told) = place.refused(&[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("does not begin as one"), "{told}");
}
