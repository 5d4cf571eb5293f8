//! Faults that nobody asked for: memory that runs out, a thread that panics.

use octrain::config::RunConfig;
use octrain::session::{FailureKind, ModelFacts, Session, SessionOptions, job_spec, machine, panics};
use octrain::strategy::Purpose;
use octrain_coordinator::config::CoordinatorConfig;
use octrain_coordinator::server::serve;
use octrain_tests::binary;
use octrain_tests::images;
use octrain_tests::run::{Running, SMALL, newest, said, succeed};
use std::process::Command;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// Trains two steps of synthetic images in 6 GB of address space; returns the exit code and what was said.
fn train_in_little_memory(batch: &str, images: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-c", "ulimit -v 6000000; exec \"$0\" \"$@\""])
        .arg(binary("octrain"))
        .args(["train", "--image-root", "synthetic", "--synthetic-images", images, "--batch-size", batch])
        .args(["--model-arch-name", "ResNet20", "--num-of-class", "10", "--image-shape", "3,32,32"])
        .args(["--crop-size", "32", "--resize-short", "32", "--device", "cpu", "--warmup-epochs", "0"])
        .args(["--run-scope", "train_only", "--max-steps", "2", "--threads", "1", "--data-threads", "1"])
        .args(["--show-config", "false", "--output-dir"])
        .arg(folder.path())
        .output()
        .expect("bash starts");
    (output.status.code(), said(&output))
}

#[test]
fn memory_that_runs_out_is_a_configuration_error_that_names_the_flag() {
    // Activations do not fit: libtorch's allocator refuses.
    let (code, told) = train_in_little_memory("4096", "8192");
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("can't allocate memory"), "{told}");
    assert!(told.contains("octrain: out of memory: lower --batch-size") && told.contains("4096"), "{told}");
    assert!(!told.contains("frame #"), "no stack of libtorch's:\n{told}");
    // Not even the pixels fit.
    let (code, told) = train_in_little_memory("1000000", "1000000");
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("MiB for the pixels") && told.contains("lower --batch-size"), "{told}");
}

#[test]
fn data_that_goes_away_costs_no_step() {
    for nproc in ["1", "2"] {
        let folder = tempfile::tempdir().unwrap();
        let data = images::tree(&folder.path().join("data"), 2, 40, 36);
        let output = folder.path().join("run");
        let places = ["--image-root", data.to_str().unwrap(), "--output-dir", output.to_str().unwrap()];
        let flags = ["--num-of-class", "2", "--batch-size", "8", "--epochs", "500", "--nproc", nproc];
        let more = ["--run-scope", "train_only", "--print-interval", "1", "--save-interval", "500"];
        let mut run = Running::start(&[&["train"], SMALL, &places, &flags, &more].concat());
        run.wait_for("step 3/");
        let gone = folder.path().join("gone");
        std::fs::rename(data.join("train"), &gone).unwrap();
        let (code, told) = run.end();
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("though the job was ended"), "{nproc}: {told}");
        assert!(newest(&output).join("manifest.json").is_file(), "{told}");
        std::fs::rename(&gone, data.join("train")).unwrap();
        let told =
            succeed(&["train", "--resume", output.to_str().unwrap(), "--epochs", "1", "--max-steps", "0"]);
        assert!(told.contains("resumed from") || told.contains("nothing left to do"), "{told}");
    }
}

fn connect(address: &str, local_index: u32) -> Session {
    let model = ModelFacts { name: "ResNet20".into(), parameters: 272_474, layers: 22, batch_norms: 21 };
    let config = serde_json::to_value(RunConfig::default()).unwrap();
    let job = job_spec(&config, Purpose::Train, model, 50_000);
    Session::connect(SessionOptions {
        host: "here".into(),
        local_index,
        local_world: 2,
        ..SessionOptions::new(address.to_string(), job, machine::capabilities(vec![]))
    })
    .unwrap()
}

/// Where the other process of the test below finds the coordinator, and which thread is to panic.
const OTHER: [&str; 2] = ["OCTRAIN_TEST_COORDINATOR", "OCTRAIN_TEST_THREAD"];

#[test]
#[ignore = "the process that panics, started by the test below"]
fn a_worker_that_panics() {
    let [address, thread] = OTHER.map(|name| std::env::var(name).expect("started by the test below"));
    let session = connect(&address, 1);
    let done = panics::guarded(&session, || {
        if thread == "main" {
            panic!("the GPU is gone");
        }
        let work = || panic!("the GPU is gone");
        let _ = std::thread::Builder::new().name(thread.clone()).spawn(work).unwrap().join();
        // As a collective would wait for the thread that is gone.
        session.wait_abort(LONG).expect("the job is ended")
    });
    let conclusion = session.conclude(&done.unwrap_err().to_string(), FailureKind::Own);
    eprintln!("octrain: {}", conclusion.message);
    std::process::exit(conclusion.code.into());
}

#[test]
fn a_panic_of_any_thread_ends_the_job_as_that_workers_failure() {
    for thread in ["main", "uploader"] {
        let coordinator = serve(CoordinatorConfig::new("127.0.0.1:0", 2)).unwrap();
        let address = coordinator.address().to_string();
        let other = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_worker_that_panics", "--ignored", "--nocapture"])
            .envs(OTHER.into_iter().zip([&*address, thread]))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let session = connect(&address, 0);
        let why = session.wait_abort(LONG).expect("the job is ended");
        let other = other.wait_with_output().unwrap();
        for part in ["rank 1", "panicked at", "faults.rs:", "the GPU is gone"] {
            assert!(why.contains(part), "{part} in: {why}");
        }
        assert_eq!(why.contains("`uploader`"), thread == "uploader", "{why}");
        assert_eq!(other.status.code(), Some(1), "{}", said(&other));
        assert!(said(&other).contains("octrain: the thread `"), "{}", said(&other));
    }
}
