//! The real CUDA libraries on a machine without a GPU: they load as a run loads them. In a process of its own, since a
//! loaded libtorch_cuda stays. And `scripts/gpu-check.sh` where there is no GPU, or one that fails.

use octrain_tests::policy::repository;
use octrain_tests::run::said;
use octrain_tests::{binary, skipped};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// The CUDA set: that of a machine with a GPU, else the one set apart for this test.
fn cuda_set() -> Option<PathBuf> {
    let deps = repository().join(".deps");
    let found =
        [deps.clone(), deps.join("cuda-apart")].into_iter().find(|d| d.join("libtorch-cuda/lib").is_dir());
    if found.is_none() {
        skipped("the CUDA wheels: they are not there; scripts/setup.sh --cuda-apart fetches them (2.5 GB)");
    }
    found
}

#[test]
fn the_cuda_wheels_load_and_nccl_is_found_by_the_product_s_own_path() {
    let Some(set) = cuda_set() else { return };
    let output = Command::new(binary("octrain"))
        .arg("doctor")
        .env("OCTRAIN_DEPS", &set)
        .env_remove("OCTRAIN_NCCL")
        .output()
        .expect("the binary starts");
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    let own = set.join("libtorch-cuda/lib/libnccl.so.2");
    for line in [
        "ok      libtorch_cuda: loaded from".to_string(),
        "ok      device guard: ".to_string(),
        format!("ok      NCCL: 22809 from {}", own.display()),
        "ok      NCCL identifier: made".to_string(),
    ] {
        assert!(told.contains(&line), "no `{line}` in:\n{told}");
    }
}

#[test]
fn what_is_missing_is_named_and_fails() {
    let empty = tempfile::tempdir().unwrap();
    let nccl = empty.path().join("libnccl.so.2");
    let output = Command::new(binary("octrain"))
        .arg("doctor")
        .env("OCTRAIN_DEPS", empty.path())
        .env("OCTRAIN_NCCL", &nccl)
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let told = said(&output);
    assert!(told.contains("FAILED  libtorch_cuda: not in") && told.contains("setup.sh --cuda"), "{told}");
    assert!(told.contains("FAILED  device guard"), "{told}");
    assert!(told.contains("FAILED  NCCL: ") && told.contains(nccl.to_str().unwrap()), "{told}");
}

/// Runs `gpu-check.sh` with only these programs in front of the system's, and this in place of the binary.
fn gpu_check(nvidia_smi: &str, octrain: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("nvidia-smi", nvidia_smi), ("octrain", octrain)] {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(&path).status().unwrap().success());
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    Command::new(repository().join("scripts/gpu-check.sh"))
        .env("PATH", path)
        .env("OCTRAIN_BIN", folder.path().join("octrain"))
        .output()
        .expect("bash runs it")
}

#[test]
fn gpu_check_says_that_it_was_not_run_and_with_a_gpu_that_fails_each_check_fails() {
    if std::path::Path::new("/dev/nvidia0").exists() {
        skipped("gpu-check.sh on a machine without a GPU: this one has one");
    } else {
        let output = gpu_check("exit 9", "exit 1");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&output).trim(), "SKIPPED: no GPU: scripts/gpu-check.sh has not been run");
    }
    let two = said(&gpu_check("echo 'GPU 0: A'; echo 'GPU 1: A'", "echo nothing works; exit 1"));
    for line in [
        "FAILED  two NCCL ranks on two GPUs: ended with 1",
        "FAILED  20 QAT steps of two workers on two GPUs, against two on the CPU: on cpu it ended with 1",
        "gpu-check: 10 failed",
    ] {
        assert!(two.contains(line), "no `{line}` in:\n{two}");
    }
    let output = gpu_check("echo 'GPU 0: A'", "echo nothing works; exit 1");
    let told = said(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for line in [
        "FAILED  octrain doctor --gpu ended with 1",
        "SKIPPED: two ranks on one GPU: NCCL was not found",
        "FAILED  20 steps in floating point, --amp off, against the CPU: on cpu it ended with 1",
        "FAILED  20 QAT steps, --amp off, against the CPU: on cpu it ended with 1",
        "FAILED  20 QAT steps, --amp bf16",
        "FAILED  20 QAT steps, --amp fp16",
        "FAILED  memory that runs out: ended with 1",
        "FAILED  throughput with --qat false",
        "FAILED  throughput with --qat true",
        "nothing works",
        "gpu-check: 8 failed",
    ] {
        assert!(told.contains(line), "no `{line}` in:\n{told}");
    }
}
