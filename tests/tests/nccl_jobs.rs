//! NCCL as a job uses it, without a GPU: workers and the doctor as processes over the stand-in for libnccl.

use octrain_tests::run::{SMALL, newest, said, tensors};
use octrain_tests::stand_in::StandIn;
use octrain_tests::{binary, skipped};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(120);

/// Trains a few steps with these workers and this backend; the stand-in is the process's NCCL.
fn train(nccl: &Path, output: &Path, flags: &[&str]) -> Output {
    command(nccl, output, flags).output().expect("the binary starts")
}

/// The command of that.
fn command(nccl: &Path, output: &Path, flags: &[&str]) -> Command {
    let fixed = ["--batch-size", "16", "--max-steps", "4", "--lr", "0.05", "--qat", "--print-interval", "1"];
    let mut command = Command::new(binary("octrain"));
    command
        .arg("train")
        .args(SMALL)
        .args(fixed)
        .args(["--qat-calibration-images", "32", "--output-dir", output.to_str().unwrap()])
        .args(flags)
        .env("OCTRAIN_NCCL", nccl);
    command
}

#[test]
fn two_workers_train_over_nccl_to_the_same_bits_as_over_gloo_and_part_in_good_order() {
    // Rank 1 is slow to receive throughout, so it is the last to end.
    let stand_in = StandIn::new("in-progress=2\nrank=1 slow-ms=20");
    let weights = |backend: &str| {
        let dir = tempfile::tempdir().unwrap();
        let output = train(&stand_in.library(), dir.path(), &["--nproc", "2", "--test-backend", backend]);
        assert!(output.status.success(), "{backend}: {}", said(&output));
        tensors(&newest(dir.path()).join("model.safetensors"))
    };
    let nccl = weights("nccl");
    assert!(stand_in.parted_in_good_order(2), "{:?}", stand_in.log());
    assert!(nccl == weights("gloo"), "a sum of two numbers has one value in FP32");
}

#[test]
fn one_worker_can_have_a_group_of_one_over_gloo_and_over_nccl() {
    let stand_in = StandIn::new("");
    let weights = |backend: &str| {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--test-backend", backend, "--checks", "true"];
        let output = train(&stand_in.library(), dir.path(), &flags);
        assert!(output.status.success(), "{backend}: {}", said(&output));
        let decided = if backend == "auto" { "local" } else { backend };
        assert!(said(&output).contains(decided), "the plan says what was decided: {}", said(&output));
        tensors(&newest(dir.path()).join("model.safetensors"))
    };
    let alone = weights("auto");
    assert!(stand_in.log().is_empty());
    assert!(weights("gloo") == alone && weights("nccl") == alone);
    assert!(stand_in.parted_in_good_order(1), "{:?}", stand_in.log());
}

#[test]
fn a_job_whose_nccl_fails_or_is_not_there_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new("rank=1 error-at=6");
    let output = train(&stand_in.library(), dir.path(), &["--nproc", "2", "--test-backend", "nccl"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("scripted error at collective 6"), "{}", said(&output));

    let missing = dir.path().join("libnccl.so.2");
    // What the other rank has saved above is in the first folder.
    let output = train(&missing, &dir.path().join("other"), &["--nproc", "2", "--test-backend", "nccl"]);
    assert!(!output.status.success());
    let told = said(&output);
    assert!(told.contains(missing.to_str().unwrap()) && told.contains("OCTRAIN_NCCL"), "{told}");
}

#[test]
fn a_fault_of_a_gpu_is_told_though_nccl_never_comes_back_from_being_freed() {
    let cases = [
        ("Cuda_failure_214_'uncorrectable_ECC_error_encountered'", 1, "uncorrectable ECC error"),
        ("Failed_to_CUDA_calloc_4194304_bytes", 2, "out of memory: lower --batch-size"),
    ];
    for (text, code, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::new(&format!("rank=1 error-at=6 code=1 text={text} hang=free"));
        let begun = Instant::now();
        let flags = ["--nproc", "2", "--test-backend", "nccl"];
        let output = train(&stand_in.library(), dir.path(), &flags);
        let told = said(&output);
        assert!(begun.elapsed() < LONG, "it took {:?}: {told}", begun.elapsed());
        assert_eq!(output.status.code(), Some(code), "{told}");
        let last = told.rfind("octrain: ").map_or("", |at| &told[at..]);
        assert!(last.contains("rank 1") && last.contains(words), "{told}");
        // The survivor hears it from the coordinator, and the coordinator before anything was freed.
        assert!(
            told.contains("the job was ended: rank 1") && !told.contains("waiting for the root cause"),
            "{told}"
        );
    }
}

#[test]
fn workers_use_the_interface_of_their_address_and_a_nccl_that_does_not_block() {
    let run = |variables: &[(&str, &str)], nproc: &str| {
        let (dir, stand_in) = (tempfile::tempdir().unwrap(), StandIn::new(""));
        let flags =
            ["--nproc", nproc, "--test-backend", "nccl", "--max-steps", "1", "--run-scope", "train_only"];
        let output =
            command(&stand_in.library(), dir.path(), &flags).envs(variables.iter().copied()).output();
        let output = output.expect("the binary starts");
        (output.status.code(), said(&output), stand_in.log())
    };
    let blocking = ("NCCL_COMM_BLOCKING", "1");
    let (code, told, log) = run(&[blocking, ("NCCL_SOCKET_IFNAME", "ib7")], "2");
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("NCCL_COMM_BLOCKING=1 is set to 0"), "{told}");
    assert!(log.contains(&"rank 1 uses interface ib7".into()), "the user's word counts: {log:?}");
    assert!(!log.iter().any(|l| l.starts_with("FAULT")), "{log:?}");
    // One worker is this very process, whose environment is the user's.
    let (code, told, log) = run(&[blocking], "1");
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("NCCL_COMM_BLOCKING=1 makes NCCL's calls block") && log.is_empty(),
        "{told} {log:?}"
    );

    let here = octrain::native::interfaces().unwrap();
    let Some((name, address)) = here.iter().find(|(_, ip)| ip.is_ipv4() && !ip.is_loopback()) else {
        return skipped("the interface of an address: this machine has the loopback only");
    };
    let (code, told, log) = run(&[("OCTRAIN_ADDRESS", &address.to_string())], "2");
    assert_eq!(code, Some(0), "{told}");
    for rank in 0..2 {
        assert!(log.contains(&format!("rank {rank} uses interface ={name}")), "{log:?}");
    }
}

#[test]
fn the_doctor_runs_two_ranks_as_two_processes() {
    let doctor = |stand_in: &StandIn| {
        let mut command = Command::new(binary("octrain"));
        command.args(["doctor", "--two-ranks"]).env("OCTRAIN_NCCL", stand_in.library());
        said(&command.output().expect("the binary starts"))
    };
    let stand_in = StandIn::new("in-progress=2");
    let told = doctor(&stand_in);
    assert!(
        told.contains("ok      NCCL with two ranks: on the host's memory") && told.contains("two processes"),
        "{told}"
    );
    assert!(stand_in.parted_in_good_order(2), "{:?}", stand_in.log());
    let stand_in = StandIn::new("rank=1 error-at=2 code=1 text=Cuda_failure_700");
    let told = doctor(&stand_in);
    let line = told.lines().find(|l| l.starts_with("FAILED  NCCL with two ranks")).unwrap_or(&told);
    for part in ["rank 1 ended with exit status: 1", "Cuda failure 700", "rank 0 ended with"] {
        assert!(line.contains(part), "{part}: {told}");
    }
}

#[test]
fn ranks_that_all_wait_for_a_connection_until_the_deadline_blame_nobody() {
    let (dir, stand_in) = (tempfile::tempdir().unwrap(), StandIn::new("hang=init"));
    let flags = ["--nproc", "2", "--test-backend", "nccl"];
    let mut command = command(&stand_in.library(), dir.path(), &flags);
    let output = command.env("OCTRAIN_COLLECTIVE_TIMEOUT", "4").output().expect("the binary starts");
    let told = said(&output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    for part in ["waited in vain", "NCCL_SOCKET_IFNAME", "every rank had reached that call"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("no other worker has failed"), "{told}");
}

#[test]
fn a_killed_worker_ends_one_that_waits_in_nccl() {
    // Nobody ever joins: both workers wait in connect, one of them is killed, the other hears the coordinator.
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::new("hang=init");
    let mut launcher = Command::new(binary("octrain"));
    launcher.arg("train").args(SMALL).args(["--nproc", "2", "--test-backend", "nccl", "--max-steps", "2"]);
    launcher.args(["--batch-size", "16", "--output-dir", dir.path().to_str().unwrap()]);
    let mut child = launcher.env("OCTRAIN_NCCL", stand_in.library()).spawn().unwrap();
    let until = Instant::now() + LONG;
    while stand_in.log().len() < 2 {
        assert!(Instant::now() < until, "they never came to connect");
        std::thread::sleep(Duration::from_millis(50));
    }
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let mut workers: Vec<String> = children.split_whitespace().map(str::to_string).collect();
    for task in std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten() {
        let more = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        workers.extend(more.split_whitespace().map(str::to_string));
    }
    let killed = Instant::now();
    assert!(Command::new("kill").args(["-KILL", &workers[0]]).status().unwrap().success());
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            panic!("the survivor still waits in NCCL");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(killed.elapsed() < Duration::from_secs(40), "it took {:?}", killed.elapsed());
    let log = stand_in.log();
    assert_eq!(log.iter().filter(|l| l.ends_with(" abort")).count(), 1, "{log:?}");
    assert!(!log.iter().any(|l| l.starts_with("FAULT")), "{log:?}");
}
