//! Workers that leave a job which goes on, asked by SIGTERM or as fewer are wanted, as real processes.

use octrain_tests::binary;
use octrain_tests::run::{Running, SMALL, events, named, newest, octrain, report, said};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time in which a process that has nothing to wait for ends.
const SOON: Duration = Duration::from_secs(60);

/// A coordinator, and where its job's launchers find it.
struct Job {
    dir: tempfile::TempDir,
    address: String,
    coordinator: Child,
    log: std::thread::JoinHandle<String>,
}

impl Job {
    fn new(world: &str, min_world: &str) -> Self {
        Self::with(world, min_world, world)
    }

    /// One that may grow.
    fn with(world: &str, min_world: &str, max_world: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut coordinator = Command::new(binary("octrain-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--world-size", world, "--min-world", min_world])
            .args(["--max-world", max_world, "--event-file"])
            .arg(dir.path().join("events.jsonl"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(coordinator.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("it listens").to_string();
        let mut stderr = coordinator.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).map(|_| text).unwrap()
        });
        Self { dir, address, coordinator, log }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A launcher of workers of one thread, that save after every step and begin no evaluation.
    fn launch(&self, host: &str, nproc: &str, steps: &str) -> Running {
        self.launch_with(host, nproc, steps, &[])
    }

    fn launch_with(&self, host: &str, nproc: &str, steps: &str, launcher: &[&str]) -> Running {
        let line = ["launch", "--coordinator", &self.address, "--nproc-per-node", nproc];
        let (file, output) = (self.at("report.jsonl"), self.at("out"));
        let paths = ["--report-file", file.to_str().unwrap(), "--output-dir", output.to_str().unwrap()];
        let how = ["--batch-size", "4", "--epochs", "50", "--max-steps", steps, "--save-interval-steps", "1"];
        let more = ["--print-interval", "1", "--run-scope", "train_only", "--threads", "1", "--lr", "0.002"];
        Running::start_with(
            &[&line[..], launcher, &["--"], SMALL, &how, &more, &paths].concat(),
            &[("OCTRAIN_HOST", host)],
        )
    }

    fn status(&self) -> serde_json::Value {
        let asked = octrain(&["status", &self.address, "--json"]);
        serde_json::from_slice(&asked.stdout).unwrap_or_else(|_| panic!("{}", said(&asked)))
    }

    /// Waits until so many steps are done, as the report says.
    fn until(&self, step: u64) {
        let until = Instant::now() + SOON;
        while self.steps().last().is_none_or(|done| *done < step) {
            assert!(Instant::now() < until, "step {step} does not come: {:?}", self.steps());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn steps(&self) -> Vec<u64> {
        if !self.at("report.jsonl").exists() {
            return Vec::new();
        }
        let of = |l: &serde_json::Value| l["global_step"].as_u64().unwrap();
        report(&self.at("report.jsonl"), "step").iter().map(of).collect()
    }

    fn worlds(&self) -> Vec<u64> {
        report(&self.at("report.jsonl"), "regroup")
            .iter()
            .map(|l| l["world_size"].as_u64().unwrap())
            .collect()
    }

    /// The coordinator's exit code, what it said, and what it told of the job.
    fn end_and_events(self) -> (Option<i32>, String, Vec<serde_json::Value>) {
        let file = self.at("events.jsonl");
        let (mut coordinator, log, _dir) = (self.coordinator, self.log, self.dir);
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            if let Some(status) = coordinator.try_wait().unwrap() {
                return (status.code(), log.join().unwrap(), events(&file));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        coordinator.kill().unwrap();
        panic!("it does not end:\n{}", log.join().unwrap());
    }

    /// The first two of these.
    fn end(self) -> (Option<i32>, String) {
        let (code, log, _) = self.end_and_events();
        (code, log)
    }
}

fn all(steps: u64) -> Vec<u64> {
    (1..=steps).collect()
}

#[test]
fn a_launcher_that_is_asked_to_stop_leaves_and_the_others_go_on_without_a_step_lost() {
    let job = Job::new("3", "1");
    let [first, second, third] = ["a", "b", "c"].map(|host| job.launch(host, "1", "25"));
    job.until(3);
    // The one that writes, between two checkpoints; then another one.
    first.signal("TERM", first.id());
    let (code, told) = first.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("the job goes on without this worker, which was to leave"), "{told}");
    assert!(!told.contains("--resume"), "nothing is to be started again: {told}");
    let at = job.steps().last().copied().unwrap();
    job.until(at + 2);
    third.signal("TERM", third.id());
    let (code, told) = third.end();
    assert_eq!(code, Some(4), "{told}");
    let (code, told) = second.end();
    assert_eq!(code, Some(0), "{told}");
    assert_eq!((job.steps(), job.worlds()), (all(25), vec![2, 1]), "{told}");
    assert!(newest(&job.at("out")).ends_with("0-25"));
    let (code, log) = job.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("leaves at the next boundary") && !log.contains("is lost"), "{log}");
}

#[test]
fn a_worker_that_is_asked_to_stop_is_not_replaced_and_its_launcher_goes_on_with_the_others() {
    let job = Job::new("3", "2");
    let mut run = job.launch("a", "3", "20");
    run.wait_for("step 3/");
    let workers = run.workers();
    run.signal("TERM", workers[0]);
    let (code, told) = run.end();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("it is not replaced"), "{told}");
    assert_eq!((job.steps(), job.worlds()), (all(20), vec![2]), "{told}");
    assert_eq!(job.end().0, Some(0));
}

#[test]
fn where_fewer_than_the_minimum_would_be_left_all_stop_and_save() {
    let job = Job::new("3", "2");
    let [first, second] = [("a", "2"), ("b", "1")].map(|(host, n)| job.launch(host, n, "500"));
    job.until(3);
    first.signal("TERM", first.id());
    for run in [first, second] {
        let (code, told) = run.end();
        assert_eq!(code, Some(4), "{told}");
    }
    let steps = job.steps();
    assert_eq!(steps, all(steps.len() as u64));
    assert!(newest(&job.at("out")).ends_with(format!("0-{}", steps.len())), "{steps:?}");
    let (code, log) = job.end();
    assert_eq!(code, Some(4), "{log}");
}

#[test]
fn a_job_is_made_smaller_and_larger_than_it_was_while_it_runs_and_what_cannot_be_is_refused() {
    let job = Job::with("3", "2", "4");
    let resize = |n: &str| octrain(&["resize", &job.address, n]);
    let early = resize("2");
    assert_eq!(early.status.code(), Some(3), "{}", said(&early));
    let [first, second] = [("a", "2"), ("b", "1")].map(|(host, n)| job.launch(host, n, "90"));
    job.until(3);
    for (n, words) in [("0", "from 2 to 4"), ("1", "--min-world"), ("5", "--max-world")] {
        let refused = resize(n);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
    let done = resize("2");
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert!(said(&done).contains("rank 2 (host b"), "{}", said(&done));
    let at = job.steps().last().copied().unwrap();
    job.until(at + 3);
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        let status = job.status();
        if status["phase"] == "running" && status["generation"] == 2 || Instant::now() > until {
            break status;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((&status["wanted_workers"], &status["phase"]), (&2.into(), &"running".into()), "{status}");
    assert!(status["members"].as_array().unwrap().iter().any(|m| m["state"] == "drained"), "{status}");
    // The launcher whose worker has left starts another one, and one that comes is let in beyond those of the start.
    let done = resize("4");
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let third = job.launch("c", "1", "90");
    for run in [first, second, third] {
        let (code, told) = run.end();
        assert_eq!(code, Some(0), "{told}");
    }
    // At one boundary, or at one each.
    let worlds = job.worlds();
    assert!(worlds == [2, 4] || worlds == [2, 3, 4], "{worlds:?}");
    assert_eq!(job.steps(), all(90));
    let (address, (code, log, told)) = (job.address.clone(), job.end_and_events());
    assert_eq!(code, Some(0), "{log}");
    let course =
        ["resized", "worker_drained", "generation_over", "generation_formed", "worker_joined", "report"];
    let want = [
        ("generation_formed", 1),
        ("resized", 1),
        ("generation_over", 1),
        ("worker_drained", 2),
        ("generation_formed", 2),
        ("resized", 2),
        ("generation_over", 2),
        ("generation_formed", 3),
        ("worker_joined", 3),
    ];
    assert_eq!(named(&told, &course)[..9], want.map(|(name, g)| (name.to_string(), g)), "{told:#?}");
    let of = |name: &str, key: &str| -> Vec<serde_json::Value> {
        told.iter().filter(|e| e["event"] == name).map(|e| e[key].clone()).collect()
    };
    assert!(of("generation_over", "planned").iter().all(|planned| *planned == true), "{told:#?}");
    assert_eq!(of("worker_registered", "joins"), [false, false, false, true, true]);
    assert_eq!(of("worker_lost", "worker"), [0; 0]);
    let joined: BTreeSet<String> =
        of("worker_joined", "worker").iter().map(|w| w["host"].to_string()).collect();
    assert_eq!(joined.len(), 2, "{joined:?}");
    let report = &told[told.len() - 1];
    assert_eq!([&report["drained_count"], &report["joined_count"]], [&1, &2], "{report}");
    let over = octrain(&["resize", &address, "2"]);
    assert_eq!(over.status.code(), Some(1), "{}", said(&over));
}

#[test]
fn a_worker_of_a_job_of_one_host_leaves_alone_and_its_launcher_stops_all() {
    let dir = tempfile::tempdir().unwrap();
    let line = ["--nproc", "3", "--min-world", "2", "--batch-size", "4", "--epochs", "50", "--threads", "1"];
    let more = ["--print-interval", "1", "--run-scope", "train_only", "--lr", "0.002"];
    let output = ["--output-dir", dir.path().to_str().unwrap()];
    let mut run = Running::start(&[&["train"], SMALL, &line, &more, &output].concat());
    run.wait_for("step 2/");
    run.signal("TERM", run.workers()[2]);
    run.wait_for("generation 2: 2 workers");
    run.wait_for("train.loss");
    run.signal("TERM", run.id());
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    assert!(newest(dir.path()).join("manifest.json").exists(), "{told}");
}

#[test]
fn one_that_waits_for_a_boundary_in_vain_leaves_all_the_same_and_is_blamed_by_nobody() {
    let job = Job::new("3", "1");
    let first = job.launch_with("a", "1", "20", &["--drain-timeout", "2"]);
    let second = job.launch("b", "2", "20");
    job.until(3);
    // No step comes to its end as long as one stands still, which is taken for dead after 5 s.
    let still = second.workers()[1];
    second.signal("STOP", still);
    first.signal("TERM", first.id());
    let (code, told) = first.end();
    second.signal("CONT", still);
    assert_eq!(code, Some(4), "{told}");
    // Not before the time it was given, however much later a busy machine lets it go.
    let waited = told.split("it has waited ").nth(1).and_then(|said| said.split(" s for a boundary").next());
    let waited: u64 = waited.and_then(|said| said.parse().ok()).unwrap_or_else(|| panic!("{told}"));
    assert!(waited >= 2, "{told}");
    let (code, told) = second.end();
    assert_eq!(code, Some(0), "{told}");
    let steps: BTreeSet<u64> = job.steps().into_iter().collect();
    assert_eq!(steps, (1..=20).collect(), "{told}");
    let (code, log) = job.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("has left before a boundary"), "{log}");
}
