//! The scripts as a user meets them: what they run, what they refuse, and the set-up against wheels made here, so
//! that nothing is downloaded.

use octrain_tests::policy::repository;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Runs a script of the repository with a stand-in for the binary that prints its arguments, one a line.
fn dry_run(script: &str, args: &[&str], gpus: &str) -> Output {
    let stand_in = repository().join("tests/fixtures/print_arguments.sh");
    Command::new(repository().join("scripts").join(script))
        .args(args)
        .env("OCTRAIN_BIN", stand_in)
        .env("CUDA_VISIBLE_DEVICES", gpus)
        .output()
        .unwrap_or_else(|e| panic!("{script}: {e}"))
}

fn arguments(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_string).collect()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "usage errors end with 2");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn launch_starts_one_worker_per_gpu() {
    let alone = arguments(&dry_run("launch.sh", &["--epochs", "1"], "0,3,5"));
    assert_eq!(alone, ["train", "--nproc", "3", "--device", "cuda", "--epochs", "1"]);
    let joining = arguments(&dry_run("launch.sh", &["--coordinator", "a:1", "--nproc=2", "--qat"], "0,1,2"));
    assert_eq!(
        joining,
        ["launch", "--coordinator", "a:1", "--nproc-per-node", "2", "--", "--device", "cuda", "--qat"]
    );
    let line = ["--coordinator", "a:1", "--nproc=1", "--token-file", "a token", "--device=cpu"];
    let shown = arguments(&dry_run("launch.sh", &line, ""));
    assert_eq!(shown[5..], ["--token-file", "a token", "--", "--device", "cpu"]);
}

#[test]
fn launch_uses_the_cpu_only_when_told() {
    let message = refused(&dry_run("launch.sh", &[], ""));
    assert!(message.contains("no GPU") && message.contains("--device cpu --nproc N"), "{message}");
    assert!(refused(&dry_run("launch.sh", &["--device", "cpu"], "")).contains("--nproc"));
    let told =
        arguments(&dry_run("launch.sh", &["--device", "cpu", "--nproc", "4", "--output-dir", "a b"], "0"));
    assert_eq!(told, ["train", "--nproc", "4", "--device", "cpu", "--output-dir", "a b"]);
}

#[test]
fn launch_refuses_what_it_cannot_do() {
    assert!(
        refused(&dry_run("launch.sh", &["--nproc", "3"], "0,1"))
            .contains("3 asks for more workers than the 2")
    );
    assert!(refused(&dry_run("launch.sh", &["--device", "tpu"], "0")).contains("'tpu'"));
    assert!(refused(&dry_run("launch.sh", &["--nproc"], "0")).contains("--nproc needs a value"));
    let alone = refused(&dry_run("launch.sh", &["--token-file", "f"], "0"));
    assert!(alone.contains("--token-file needs --coordinator"), "{alone}");
}

#[test]
fn the_wrapper_sets_up_and_builds_both_binaries_before_it_runs_one() {
    let root = tempfile::tempdir().unwrap();
    let stand_in = |path: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    stand_in("scripts/setup.sh", "echo set-up");
    stand_in("bin/cargo", r#"echo "cargo $*""#);
    stand_in("target/release/octrain", r#"echo "octrain $*""#);
    let script = root.path().join("scripts/octrain.sh");
    fs::copy(repository().join("scripts/octrain.sh"), &script).unwrap();
    let path = format!("{}:{}", root.path().join("bin").display(), std::env::var("PATH").unwrap());
    let output =
        Command::new(script).args(["plan", "--qat"]).env("PATH", path).env_remove("OCTRAIN_BIN").output();
    let output = output.unwrap();
    assert_eq!(arguments(&output), ["octrain plan --qat"], "the wrapper's own words go to standard error");
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told, "set-up\ncargo build --release --locked -p octrain -p octrain-coordinator\n");
}

/// The value of the last `flag` in `args`, as the binary reads it.
fn last<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    args.iter().rposition(|a| a == flag).map(|at| args[at + 1].as_str())
}

#[test]
fn recipes_are_the_reference_s_and_flags_win_over_them() {
    for (script, epochs, lr, amp) in [
        ("train_resnet50_TF32_90E.sh", "90", "2.048", "off"),
        ("train_resnet50_AMP_90E.sh", "90", "2.048", "fp16"),
        ("train_resnet50_AMP_QAT_10E.sh", "10", "0.0004", "fp16"),
    ] {
        let run =
            |extra: &[&str]| arguments(&dry_run(&format!("training/{script}"), extra, "0,1,2,3,4,5,6,7"));
        let args = run(&[]);
        assert_eq!(args[..5], ["train", "--nproc", "8", "--device", "cuda"], "{script}");
        let flags = ["--epochs", "--lr", "--amp", "--global-batch-size", "--momentum", "--label-smoothing"];
        let found = flags.map(|flag| last(&args, flag).unwrap_or("none"));
        assert_eq!(found, [epochs, lr, amp, "2048", "0.875", "0.1"], "{script}");
        assert_eq!(args.contains(&"--qat".to_string()), script.contains("QAT"), "{script}");
        assert_eq!(last(&run(&["--epochs", "1"]), "--epochs"), Some("1"), "{script}");
    }
    let from = |args: &[&str]| {
        let args = arguments(&dry_run("training/train_resnet50_AMP_QAT_10E.sh", args, "0"));
        last(&args, "--from-pretrained-params").map(str::to_string)
    };
    assert_eq!(from(&["runs/x/7", "--epochs", "1"]).as_deref(), Some("runs/x/7"));
    assert_eq!(from(&["--epochs", "1"]).as_deref(), Some("output/resnet50_amp"));
}

#[test]
fn a_network_on_cifar_10_has_its_own_recipe_and_folder() {
    let script = "training/train_cifar10.sh";
    for (network, optimizer, folder) in [
        ("ResNet20", None, "runs/cifar10/ResNet20-2/compare"),
        ("MobileNetV2-32px", None, "runs/cifar10/MobileNetV2-32px-2/compare"),
        ("ViT-32px", Some("adamw"), "runs/cifar10/ViT-32px-2/compare"),
    ] {
        let args = arguments(&dry_run(
            script,
            &["data", "--network", network, "--seed", "2", "--max-steps", "1"],
            "",
        ));
        assert_eq!(args[0], "train");
        assert!(args.contains(&"compare".to_string()), "{args:?}");
        let found = ["--model-arch-name", "--seed", "--max-steps", "--output"].map(|flag| last(&args, flag));
        assert_eq!(found, [Some(network), Some("2"), Some("1"), Some(folder)]);
        assert_eq!(last(&args, "--optimizer"), optimizer, "{network}");
    }
    assert_eq!(last(&arguments(&dry_run(script, &["data"], "")), "--model-arch-name"), Some("ResNet20"));
    let message = refused(&dry_run(script, &["data", "--network", "VGG"], ""));
    assert!(message.contains("no recipe for --network VGG"), "{message}");
    assert!(refused(&dry_run(script, &["--seed", "2"], "")).contains("train_cifar10.sh FOLDER"));
    let usage = dry_run(script, &["--help"], "");
    assert!(usage.status.success() && String::from_utf8_lossy(&usage.stdout).contains("--network"));
}

/// Scripts of a folder and of those in it, with their text.
fn shell_scripts(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(shell_scripts(&path));
        } else if path.extension().is_some_and(|end| end == "sh") {
            let text = fs::read_to_string(&path).unwrap();
            all.push((path, text));
        }
    }
    all
}

#[test]
fn whatever_a_script_fetches_with_pip_is_pinned_by_hash() {
    let mut commands = 0;
    for (path, text) in shell_scripts(&repository().join("scripts")) {
        let text = text.replace("\\\n", " ");
        for line in
            text.lines().filter(|line| line.contains("pip install ") || line.contains("pip download "))
        {
            assert!(line.contains("--require-hashes"), "{}: {line}", path.display());
            commands += 1;
        }
    }
    assert!(commands >= 4, "{commands} commands were found");
}

#[test]
fn inference_scripts_export_and_time_the_qat_checkpoint() {
    let export =
        arguments(&dry_run("inference/export_resnet50_QAT.sh", &["runs/q/9", "--profile", "tensorrt"], ""));
    assert_eq!(export[..3], ["export", "--from-checkpoint", "runs/q/9"]);
    assert_eq!(last(&export, "--profile"), Some("tensorrt"));
    let infer = arguments(&dry_run("inference/infer_resnet50_QAT.sh", &["--batch-size", "1"], ""));
    assert_eq!(infer[..3], ["infer", "--model", "output/resnet50_qat/int8.onnx"]);
    assert_eq!(last(&export, "--output"), last(&infer, "--model"), "the one reads what the other writes");
    assert_eq!(last(&infer, "--benchmark-steps"), Some("1024"));
    assert_eq!(last(&infer, "--batch-size"), Some("1"));
}

/// Runs the build of a TensorRT engine with a stand-in for trtexec.
fn build_engine(model: &Path, args: &[&str], trtexec: &Path) -> Output {
    Command::new(repository().join("scripts/inference/build_tensorrt_engine.sh"))
        .args([model, Path::new("out.engine")])
        .args(args)
        .env("TRTEXEC", trtexec)
        .output()
        .unwrap()
}

#[test]
fn a_tensorrt_engine_is_built_without_calibration_from_files_that_hold_scales() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    // As protobuf writes a metadata entry: key, tag and length, value.
    let text = |float_type: &str| {
        let of_type = format!("\u{a}\u{12}octrain.float_type\u{12}\u{4}{float_type}");
        format!("..DequantizeLinear..\u{a}\u{f}octrain.profile\u{12}\u{8}tensorrt{of_type}")
    };
    let model = file("a b.onnx", &text("fp32"));
    let half = file("half.onnx", &text("fp16"));
    let stand_in = repository().join("tests/fixtures/print_arguments.sh");
    let flags = ["--weakly-typed", "--image-shape", "3,32,32", "--opt-batch", "16", "--", "--verbose"];
    let onnx = format!("--onnx={}", model.display());
    let shapes =
        ["--minShapes=input:1x3x32x32", "--optShapes=input:16x3x32x32", "--maxShapes=input:32x3x32x32"];
    let mut wanted = vec![onnx.as_str(), "--saveEngine=out.engine", "--int8", "--fp16"];
    wanted.extend(shapes);
    wanted.push("--verbose");
    assert_eq!(arguments(&build_engine(&model, &flags, &stand_in)), wanted);
    for (file, note) in [(&half, false), (&model, true)] {
        let built = build_engine(file, &[], &stand_in);
        let typed = arguments(&built);
        assert!(typed.contains(&"--stronglyTyped".into()) && !typed.contains(&"--int8".into()), "{typed:?}");
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        assert_eq!(said.contains("--float-type fp16"), note, "{said}");
    }
    let typed = arguments(&build_engine(&half, &[], &stand_in));
    assert!(refused(&build_engine(&half, &["--weakly-typed"], &stand_in)).contains("--float-type fp32"));
    assert!(!typed.iter().any(|a| a.contains("calib")));

    let missing = refused(&build_engine(&model, &[], &folder.path().join("nowhere/trtexec")));
    assert!(missing.contains("trtexec was not found") && missing.contains("TRTEXEC="), "{missing}");
    let float = file("float.onnx", "Conv");
    assert!(refused(&build_engine(&float, &[], &stand_in)).contains("no Q/DQ pairs"));
    let other = file("other.onnx", "DequantizeLinear octrain.profile\u{12}\u{8}openvino");
    assert!(refused(&build_engine(&other, &[], &stand_in)).contains("not of --profile tensorrt"));
    assert!(refused(&build_engine(&model, &["--opt-batch", "64"], &stand_in)).contains("1, 64, 32"));
    assert!(refused(&build_engine(&model, &["--calib"], &stand_in)).contains("behind --"));
    assert!(refused(&build_engine(Path::new("none.onnx"), &[], &stand_in)).contains("none.onnx"));
}

// ---- set-up

/// A copy of the set-up with requirements that name wheels made by `fixtures/make_wheels.py`.
struct SetUp {
    root: TempDir,
}

impl SetUp {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let copy = |from: &str| {
            let to = root.path().join("clone").join(from);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(repository().join(from), to).unwrap();
        };
        copy("scripts/setup.sh");
        copy("scripts/setup/unpack.py");
        let made = Command::new("python3")
            .arg(repository().join("tests/fixtures/make_wheels.py"))
            .arg(root.path().join("index"))
            .arg(root.path().join("clone/scripts/requirements"))
            .output()
            .expect("python3 runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { root }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.clone().join("scripts/setup.sh"));
        command.args(args);
        command.env("OCTRAIN_CACHE", self.root.path().join("cache"));
        command.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", self.root.path().join("index"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn clone(&self) -> PathBuf {
        self.root.path().join("clone")
    }

    fn deps(&self, file: &str) -> PathBuf {
        self.clone().join(".deps").join(file)
    }

    /// What is left in the cache besides the finished folder and the lock.
    fn leavings(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.path().join("cache")) else { return Vec::new() };
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.starts_with("partial")).collect()
    }
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

#[test]
fn setup_lays_the_libraries_out_and_is_idempotent() {
    let setup = SetUp::new();
    assert!(said(&setup.run(&["--no-cuda"])).contains("fetching libtorch"));
    assert_eq!(text(setup.deps("libtorch/lib/libtorch.so")), "INPUT(libtorch_cpu.so)\n");
    assert_eq!(text(setup.deps("libtorch/lib/libtorch_cpu.so")), "torch/lib/libtorch_cpu.so");
    assert_eq!(text(setup.deps("libtorch/include/ATen/ATen.h")), "torch/include/ATen/ATen.h");
    assert_eq!(text(setup.deps("libtorch/lib/libcudart.so.13")), "nvidia/cu13/lib/libcudart.so.13");
    assert_eq!(text(setup.deps("openvino/lib/libopenvino_c.so")), "openvino/libs/libopenvino_c.so.2641");
    assert_eq!(
        text(setup.deps("onnxruntime/lib/libonnxruntime.so")),
        "onnxruntime/capi/libonnxruntime.so.1.32.0"
    );
    assert_eq!(text(setup.deps("digits/digits.csv.gz")), "sklearn/datasets/data/digits.csv.gz");
    assert!(!setup.deps("libtorch/lib/libtorch_cuda.so").exists() && !setup.deps("libtorch-cuda").exists());

    let marker = setup.deps("digits/marker");
    fs::write(&marker, "").unwrap();
    assert!(said(&setup.run(&["--no-cuda"])).contains("in place"));
    assert!(marker.exists(), "a second run must leave what is there alone");

    said(&setup.run(&["--no-cuda", "--cuda-apart"]));
    let apart = |file: &str| text(setup.deps(&format!("cuda-apart/libtorch-cuda/lib/{file}")));
    assert_eq!(apart("libnccl.so.2"), "nvidia/nccl/lib/libnccl.so.2");
    assert_eq!(apart("libtorch_cpu.so"), "torch/lib/libtorch_cpu.so", "one libtorch serves both");
    assert!(!setup.deps("libtorch-cuda").exists(), "a set apart is one that no run takes");
    assert!(said(&setup.run(&["--no-cuda", "--cuda-apart"])).contains("cuda-apart: in place"));

    said(&setup.run(&["--cuda"]));
    assert!(said(&setup.run(&["--no-cuda", "--cuda-apart"])).contains("apart: not needed"));
    assert_eq!(text(setup.deps("libtorch-cuda/lib/libnccl.so")), "nvidia/nccl/lib/libnccl.so.2");
    assert_eq!(text(setup.deps("libtorch-cuda/lib/libc10.so")), "torch/lib/libc10.so");
    assert_eq!(text(setup.deps("libtorch-cuda/lib/libcuda_nvrtc.so")), "nvidia/cu13/lib/libcuda_nvrtc.so.9");
    assert_eq!(setup.leavings(), [""; 0]);
}

#[test]
fn setup_refuses_a_file_with_another_hash_and_leaves_nothing_half_done() {
    let setup = SetUp::new();
    let list = setup.clone().join("scripts/requirements/native.txt");
    let pinned = text(&list);
    let at = pinned.find("sha256:").unwrap() + 7;
    fs::write(&list, format!("{}{}{}", &pinned[..at], "0".repeat(64), &pinned[at + 64..])).unwrap();
    let message = failed(&setup.run(&["--no-cuda"]));
    assert!(message.contains("DO NOT MATCH THE HASHES") && message.contains("native.txt"), "{message}");
    assert!(!setup.clone().join(".deps").exists());
    assert_eq!(setup.leavings(), [""; 0]);
    fs::write(&list, pinned).unwrap();
    said(&setup.run(&["--no-cuda"]));
}

#[test]
fn setup_says_so_when_nothing_can_be_fetched_or_a_wheel_has_changed() {
    let setup = SetUp::new();
    let none = setup.command(&["--no-cuda"]).env("PIP_FIND_LINKS", setup.root.path()).output().unwrap();
    assert!(failed(&none).contains("could not fetch the wheels in scripts/requirements/native.txt"));

    let unpack = setup.clone().join("scripts/setup/unpack.py");
    fs::write(&unpack, text(&unpack).replace("libcudart", "libcudart_of_another_name")).unwrap();
    let message = failed(&setup.run(&["--no-cuda"]));
    assert!(message.contains("nvidia_cuda_runtime") && message.contains("no file like"), "{message}");
    assert_eq!(setup.leavings(), [""; 0]);
}

#[test]
fn setup_does_not_touch_a_deps_folder_of_the_user() {
    let setup = SetUp::new();
    fs::create_dir(setup.clone().join(".deps")).unwrap();
    fs::write(setup.deps("mine"), "mine").unwrap();
    assert!(failed(&setup.run(&["--no-cuda"])).contains("move it away"));
    assert_eq!(text(setup.deps("mine")), "mine");
    assert!(refused(&setup.run(&["--gpu"])).contains("'--gpu'"));
}

#[test]
fn two_setups_at_once_wait_for_each_other() {
    let setup = SetUp::new();
    let runs: Vec<_> = (0..3)
        .map(|_| setup.command(&["--no-cuda"]).stdout(std::process::Stdio::piped()).spawn().unwrap())
        .collect();
    let outputs: Vec<String> = runs.into_iter().map(|run| said(&run.wait_with_output().unwrap())).collect();
    let fetched = outputs.iter().filter(|o| o.contains("fetching libtorch")).count();
    assert_eq!(fetched, 1, "one fills the cache, the others find it filled: {outputs:?}");
    assert!(setup.deps("digits/digits.csv.gz").exists());
}
