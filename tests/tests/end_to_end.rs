//! The whole path with real processes: AMP training on two workers, QAT from that checkpoint, export, INT8 inference,
//! verification; and the commands around it.

use octrain_tests::run::{SMALL, newest, octrain, report, said, succeed, tensors};
use octrain_tests::{adds_exactly, binary, images, python, verified_as_far_as_sums_are_exact};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn from_mixed_precision_to_int8_in_an_engine() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (fp, qat) = (at("fp"), at("qat"));
    let shared = ["--nproc", "2", "--amp", "bf16", "--batch-size", "32", "--print-interval", "5"];
    let flags = ["--epochs", "3", "--lr", "0.1", "--output-dir", text(&fp)];
    let file = at("fp.jsonl");
    succeed(&[&["train"], SMALL, &shared, &flags, &["--report-file", text(&file)]].concat());
    let evaluated = report(&file, "eval").pop().expect("an evaluation");
    assert!(evaluated["val.top1"].as_f64().unwrap() > 60.0, "{evaluated}");
    let steps = report(&file, "step");
    assert!(steps.last().unwrap()["train.loss"].as_f64() < steps[0]["train.loss"].as_f64());

    let flags = ["--epochs", "1", "--lr", "0.01", "--qat", "--from-pretrained-params", text(&fp)];
    let file = at("qat.jsonl");
    let rest = ["--output-dir", text(&qat), "--report-file", text(&file)];
    succeed(&[&["train"], SMALL, &shared, &flags, &rest].concat());
    let trained = report(&file, "eval").pop().unwrap()["val.top1"].as_f64().unwrap();

    let again = succeed(&["eval", "--from-checkpoint", text(&qat), "--show-config", "false"]);
    assert!(again.contains(&format!("val.top1 {trained:.2}")), "{trained} in {again}");

    let mut files = Vec::new();
    for (profile, stage) in [("fp32", &fp), ("openvino", &qat), ("onnxruntime", &qat), ("tensorrt", &qat)] {
        let file = at(&format!("{profile}.onnx"));
        let table = at(&format!("{profile}.json"));
        let line =
            ["export", "--from-checkpoint", text(stage), "--profile", profile, "--output", text(&file)];
        succeed(&[&line[..], &["--scale-table", text(&table)]].concat());
        files.push(file);
    }
    if let Some(python) = python() {
        let args: Vec<&OsStr> = files.iter().map(|f| f.as_os_str()).collect();
        let told = python.run("check_onnx.py", &args);
        assert_eq!(told.lines().count(), 4, "{told}");
        let of = |name: &str| told.lines().find(|l| l.starts_with(name)).unwrap().to_string();
        assert!(!of("fp32.onnx").contains("QuantizeLinear"));
        for name in ["openvino.onnx", "onnxruntime.onnx", "tensorrt.onnx"] {
            assert!(of(name).contains("QuantizeLinear") && of(name).contains("Conv=21"), "{told}");
            assert!(!of(name).contains("BatchNormalization"), "{told}");
        }
    }
    for (profile, engine) in [
        ("fp32", "openvino"),
        ("openvino", "openvino"),
        ("onnxruntime", "onnxruntime"),
        ("tensorrt", "onnxruntime"),
    ] {
        let (model, file) = (at(&format!("{profile}.onnx")), at("infer.jsonl"));
        let line = ["infer", "--model", text(&model), "--engine", engine, "--report-file", text(&file)];
        succeed(&[&line[..], &["--image-root", "digits"]].concat());
        let told = report(&file, "infer").pop().unwrap();
        let top1 = told["infer.top1"].as_f64().unwrap();
        assert!(top1 > 60.0, "{told}");
        if engine == profile && adds_exactly("accuracy of deployed files") {
            assert!((top1 - trained).abs() < 1.0, "{profile}: {top1} deployed, {trained} trained");
        }
        let timed = ["--benchmark", "--benchmark-steps", "3", "--benchmark-warmup-steps", "1"];
        succeed(&[&line[..], &timed].concat());
        let told = report(&file, "infer").pop().unwrap();
        for key in ["infer.images_per_second", "eval_latency_avg", "eval_latency_p99", "throughput"] {
            assert!(told[key].as_f64().unwrap() > 0.0, "{key} in {told}");
        }
        if engine == profile {
            let file = at("verify.jsonl");
            let line =
                ["verify", "--from-checkpoint", text(&qat), "--model", text(&model), "--engine", engine];
            // Barely trained logits lie close together, so here predictions may differ a little more.
            let rest = ["--image-root", "digits", "--report-file", text(&file), "--max-disagreement", "3"];
            succeed(&[&line[..], &rest, verified_as_far_as_sums_are_exact()].concat());
            let told = report(&file, "verify").pop().unwrap();
            assert_eq!(told["verify.fp32_nodes"].as_u64(), Some(0), "{told}");
            if adds_exactly("codes of deployed files") {
                assert!(told["verify.lsb_within_1"].as_f64().unwrap() >= 99.9, "{told}");
                assert!(told["verify.agreement"].as_f64().unwrap() >= 97.0, "{told}");
            }
        }
    }
}

#[test]
fn a_class_per_folder_tree_and_a_file_of_settings() {
    let dir = tempfile::tempdir().unwrap();
    let data = images::tree(&dir.path().join("data"), 3, 24, 40);
    let settings = dir.path().join("settings.toml");
    let toml = format!(
        "image-root = {:?}\nmodel-arch-name = \"ResNet20\"\nnum-of-class = 3\nimage-shape = [3, 32, 32]\ncrop-size = 32\n\
         resize-short = 36\nbatch-size = 8\nepochs = 9\nlr = 0.05\nwarmup-epochs = 0.0\ndevice = \"cpu\"\n",
        text(&data)
    );
    std::fs::write(&settings, toml).unwrap();
    let output = dir.path().join("out");
    let told =
        succeed(&["train", "--config", text(&settings), "--epochs", "1", "--output-dir", text(&output)]);
    assert!(told.contains("epochs = 1") && told.contains("batch-size = 8"), "{told}");
    let manifest = std::fs::read_to_string(newest(&output).join("manifest.json")).unwrap();
    assert!(manifest.contains("\"epochs\": 1") && manifest.contains("\"a\""), "{manifest}");
    std::fs::write(&settings, "batchsize = 8\n").unwrap();
    let refused = octrain(&["train", "--config", text(&settings)]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("batchsize"), "{}", said(&refused));
}

#[test]
fn plan_and_graph_show_what_would_be_done_and_why() {
    let flags = ["--nproc", "2", "--qat", "--amp", "bf16", "--batch-size", "32"];
    let told = succeed(&[&["plan"], &SMALL[..SMALL.len() - 2], &flags].concat());
    for line in ["quantize-activations", "rank", "--qat", "gloo", "observers-freeze-step"] {
        assert!(told.contains(line), "{line} in {told}");
    }
    let network = ["--model-arch-name", "ResNet20", "--num-of-class", "10", "--image-shape", "3,32,32"];
    let network =
        [&network[..], &["--crop-size", "32", "--resize-short", "32", "--device", "cpu", "--qat"]].concat();
    let told = succeed(&[&["graph"], &network[..]].concat());
    assert!(
        told.contains("input.quantize = Quantize[Signed, -127 to 127](input)") && told.contains("return"),
        "{told}"
    );
    let told = succeed(&[&["graph"], &network[..], &["--format", "dot", "--for", "export"]].concat());
    assert!(told.starts_with("digraph") && told.contains("+bn int8"), "{told}");
    let told = succeed(&[&["graph"], &network[..], &["--every-pass"]].concat());
    assert!(told.contains("as built:") && told.contains("after memory-layout"), "{told}");
}

#[test]
fn debug_shows_graphs_plan_and_steps_of_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--qat", "--batch-size", "16", "--max-steps", "2", "--qat-calibration-images", "32"];
    let told = succeed(&[&["debug"], SMALL, &flags, &["--output-dir", text(dir.path())]].concat());
    for line in
        ["graph as built", "graph after quantize-weights", "rank 0", "rank 1", "train.loss", "determinism"]
    {
        assert!(told.contains(line), "{line} in {told}");
    }
    // The first layer that makes NaN is named, and the steps before it are in the trace.
    let (other, trace) = (dir.path().join("other"), dir.path().join("trace.json"));
    let flags = ["--batch-size", "16", "--max-steps", "4", "--lr", "1e30", "--output-dir", text(&other)];
    let output = octrain(&[&["debug"], SMALL, &flags, &["--trace-file", text(&trace)]].concat());
    assert!(!output.status.success());
    let told = said(&output);
    let layers: Vec<&str> = told
        .split("the first layer with NaN or infinite values is `")
        .skip(1)
        // How many values are is of each rank's own images.
        .filter_map(|rest| rest.split('`').next())
        .collect();
    assert!(!layers.is_empty() && layers.iter().all(|layer| *layer == layers[0]), "{layers:?} in {told}");
    assert!(told.contains("has the steps of rank 0 alone"), "{told}");
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(&trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|e| e["name"] == "step") && events.iter().all(|e| e["pid"] == 0), "{trace}");
}

#[test]
fn hosts_join_a_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listen.local_addr().unwrap().to_string();
    drop(listen);
    let coordinator = Command::new(binary("octrain-coordinator"))
        .args(["--listen", &address, "--world-size", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let flags = [
        "--epochs",
        "1",
        "--max-steps",
        "2",
        "--batch-size",
        "16",
        "--run-scope",
        "train_only",
        "--threads",
        "1",
    ];
    let line = ["launch", "--coordinator", &address, "--nproc-per-node", "1", "--"];
    let (shared, alone) = (dir.path().join("shared"), dir.path().join("alone"));
    // The host that comes first in the alphabet is started last, and has rank 0 all the same.
    let hosts = ["node-b", "node-a"].map(|host| {
        Command::new(binary("octrain"))
            .args([&line[..], SMALL, &flags, &["--output-dir", text(&shared)]].concat())
            .env("OCTRAIN_HOST", host)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let [b, a] = hosts.map(|host| host.wait_with_output().unwrap());
    for (output, rank) in [(&a, "rank=0"), (&b, "rank=1")] {
        assert!(output.status.success() && said(output).contains(rank), "{}", said(output));
    }
    let output = coordinator.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    // Two hosts of one worker are one host of two, bit for bit.
    succeed(&[&["train"], SMALL, &flags, &["--nproc", "2", "--output-dir", text(&alone)]].concat());
    let [shared, alone] = [shared, alone].map(|run| tensors(&newest(&run).join("model.safetensors")));
    assert!(shared.len() > 50 && shared == alone);
}

#[test]
fn quickstart_writes_what_it_promises() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("quick");
    let flags = ["--epochs", "1", "--qat-epochs", "1", "--benchmark-steps", "2", "--output", text(&output)];
    let told = succeed(&[&["quickstart"], &flags[..]].concat());
    assert!(told.contains("top-1 %"), "{told}");
    let kept: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("report.json")).unwrap()).unwrap();
    for key in ["fp.top1", "control.top1", "qat.top1", "int8.top1", "int8.images_per_second"] {
        assert!(kept[key].as_f64().is_some(), "{key} in {kept}");
    }
    assert!(kept["int8.bytes"].as_u64().unwrap() * 2 < kept["fp32.bytes"].as_u64().unwrap(), "{kept}");
    assert!(kept["fp32.images_per_second"].as_f64().unwrap() > 0.0);
    for file in ["fp32", "int8-openvino", "int8-onnxruntime", "int8-tensorrt"] {
        assert!(output.join(format!("{file}.onnx")).exists(), "{file}");
    }
    for stage in ["fp", "control", "qat"] {
        assert!(newest(&output.join(stage)).join("manifest.json").exists(), "{stage}");
    }
}

#[test]
fn the_baselines_stand_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (fp, output) = (at("fp"), at("compare"));
    let flags = ["--epochs", "1", "--batch-size", "32", "--lr", "0.1", "--run-scope", "train_only"];
    succeed(&[&["train"], SMALL, &flags, &["--output-dir", text(&fp)]].concat());
    // The checkpoint brings network, data and all else.
    let line = ["compare", "--from-checkpoint", text(&fp), "--output", text(&output), "--"];
    let flags = ["--lr", "0.01", "--qat-calibration-images", "64", "--target", "onnxruntime"];
    let told = succeed(&[&line[..], &flags].concat());
    assert!(told.contains("ptq") && told.contains("control"), "{told}");
    let control =
        told.lines().find(|line| line.starts_with("$ octrain train") && line.ends_with("--qat false"));
    let control = control.unwrap_or_else(|| panic!("no control in {told}"));
    assert!(control.contains("--lr 0.01") && !control.contains("--target"), "{control}");
    let kept: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("report.json")).unwrap()).unwrap();
    for key in [
        "ptq.top1",
        "qat.top1",
        "control.top1",
        "ptq.openvino.top1",
        "qat.onnxruntime.top1",
        "control.fp32.top1",
    ] {
        assert!(kept[key].as_f64().is_some(), "{key} in {kept}");
    }
}
