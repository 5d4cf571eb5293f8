//! Post-training quantization as one command: it is the training path without a step, and what it saves is a checkpoint
//! like any of quantization-aware training.

use octrain_tests::run::{SMALL, newest, refuse, report, succeed, tensors};
use octrain_tests::{adds_exactly, images, verified_as_far_as_sums_are_exact};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A floating-point checkpoint of a few steps on the digits.
fn trained() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let made = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("fp");
        let recipe = ["--batch-size", "32", "--lr", "0.1", "--epochs", "1", "--output-dir", text(&out)];
        succeed(&[&["train"], SMALL, &recipe].concat());
        dir
    });
    made.path()
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(newest(folder).join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn fewer_images_than_a_batch_are_calibrated_on_as_they_are_and_empty_classes_are_allowed_by_a_flag() {
    let dir = tempfile::tempdir().unwrap();
    let (fp, out) = (trained().join("fp"), dir.path().join("ptq"));
    let place =
        ["quantize", "--from-checkpoint", text(&fp), "--output-dir", text(&out), "--show-config", "false"];
    let told = succeed(&[&place[..], &["--batch-size", "2000", "--qat-calibration-images", "2000"]].concat());
    assert!(told.contains("calibrated") && told.contains("training images"), "{told}");
    assert!(!told.contains("drop out of every epoch"), "no epoch is run: {told}");
    // Two classes with images, eight without.
    let data = images::tree(&dir.path().join("data"), 2, 4, 32);
    for split in ["train", "val"] {
        for (from, to) in [("a", "0"), ("b", "1")] {
            fs::rename(data.join(split).join(from), data.join(split).join(to)).unwrap();
        }
        (2..10).for_each(|i| fs::create_dir(data.join(split).join(i.to_string())).unwrap());
    }
    let there = ["--image-root", text(&data), "--val-fraction", "0"];
    let eval = ["eval", "--from-checkpoint", text(&fp), "--show-config", "false"];
    for line in [[&place[..], &there, &["--overwrite"]].concat(), [&eval[..], &there].concat()] {
        let told = refuse(2, &line);
        assert!(told.contains("--allow-missing-classes"), "{told}");
        succeed(&[&line[..], &["--allow-missing-classes"]].concat());
    }
}

#[test]
fn a_file_of_the_same_weights_and_another_recipe_is_refused_and_the_setting_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (fp, file) = (trained().join("fp"), at("eight.onnx"));
    for (name, bits) in [("eight", "8"), ("seven", "7")] {
        let out = at(name);
        let place = ["quantize", "--from-checkpoint", text(&fp), "--output-dir", text(&out)];
        let how = ["--qat-weight-bits", bits, "--qat-calibration-images", "64", "--show-config", "false"];
        succeed(&[&place[..], &how].concat());
    }
    let (eight, seven) = (at("eight"), at("seven"));
    let export =
        ["export", "--from-checkpoint", text(&eight), "--profile", "openvino", "--output", text(&file)];
    succeed(&export);
    let told = refuse(2, &["verify", "--from-checkpoint", text(&seven), "--model", text(&file)]);
    assert!(told.contains("--qat-weight-bits is 8 in it and 7 in the checkpoint"), "{told}");
}

#[test]
fn one_command_makes_a_checkpoint_that_is_exported_verified_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (fp, out, lines) = (trained().join("fp"), at("ptq"), at("ptq.jsonl"));
    let place = ["--from-checkpoint", text(&fp), "--output-dir", text(&out)];
    let how = ["--qat-calibration-images", "64", "--report-file", text(&lines), "--show-config", "false"];
    let told = succeed(&[&["quantize"], &place[..], &how].concat());
    for part in ["before quantization: top1", "calibrated", "val.top1", "octrain export --from-checkpoint"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let before = report(&lines, "float").pop().expect("an evaluation before");
    let after = report(&lines, "eval").pop().expect("an evaluation after");
    let (kept, quantized) = (manifest(&fp), manifest(&out));
    // Before is what training measured of the same weights; after is the network with its quantizers.
    let top1 = |v: &Value, key: &str| v[key].as_f64().unwrap();
    assert_eq!(top1(&before, "float.top1"), top1(&kept["metrics"], "val.top1"));
    assert_eq!(top1(&after, "val.top1"), top1(&quantized["metrics"], "val.top1"));
    assert!(top1(&before, "float.loss") != top1(&after, "val.loss"));
    assert_eq!(quantized["position"]["global-step"], 0);
    assert_eq!(quantized["qat"]["target"], "openvino");
    // The weights are untouched.
    let (theirs, mine) =
        (tensors(&newest(&fp).join("model.safetensors")), tensors(&newest(&out).join("model.safetensors")));
    for (name, tensor) in &theirs {
        assert_eq!(Some(tensor), mine.get(name), "{name}");
    }
    let file = at("int8.onnx");
    succeed(&["export", "--from-checkpoint", text(&out), "--profile", "openvino", "--output", text(&file)]);
    let verify = ["--layer-images", "8", "--max-images", "100", "--max-disagreement", "5"];
    let which = ["verify", "--from-checkpoint", text(&out), "--model", text(&file)];
    succeed(&[&which[..], &verify, verified_as_far_as_sums_are_exact()].concat());
    let infer = at("infer.jsonl");
    succeed(&["infer", "--model", text(&file), "--image-root", "digits", "--report-file", text(&infer)]);
    let deployed = report(&infer, "infer").pop().unwrap();
    let apart = (top1(&deployed, "infer.top1") - top1(&after, "val.top1")).abs();
    assert!(apart < 3.0 || !adds_exactly("accuracy of deployed files"), "{deployed} {after}");
    assert_eq!(deployed["precision"], "INT8");
    // What is quantized is not quantized again.
    let again = at("again");
    let told = refuse(2, &["quantize", "--from-checkpoint", text(&out), "--output-dir", text(&again)]);
    assert!(told.contains("quantized already") && !again.exists(), "{told}");
}

#[test]
fn settings_of_quantization_are_obeyed_as_the_training_path_obeys_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (fp, one, two) = (trained().join("fp"), at("one"), at("two"));
    let how = ["--target", "onnxruntime", "--qat-observer", "percentile", "--qat-percentile", "99.5"];
    let how = [&how[..], &["--qat-calibration-images", "64", "--qat-skip", "fc"]].concat();
    let place = ["--from-checkpoint", text(&fp), "--output-dir", text(&one), "--nproc", "2"];
    succeed(&[&["quantize"], &place[..], &how].concat());
    let written = manifest(&one);
    assert_eq!(written["qat"]["target"], "onnxruntime");
    assert_eq!(written["config"]["qat-observer"], "percentile");
    let train = ["--qat", "--epochs", "0", "--batch-size", "32", "--from-pretrained-params", text(&fp)];
    succeed(&[&["train"], SMALL, &train, &["--output-dir", text(&two), "--nproc", "2"], &how[..]].concat());
    assert_eq!(
        tensors(&newest(&one).join("model.safetensors")),
        tensors(&newest(&two).join("model.safetensors"))
    );
    let file = at("int8.onnx");
    succeed(&[
        "export",
        "--from-checkpoint",
        text(&one),
        "--profile",
        "onnxruntime",
        "--output",
        text(&file),
    ]);
}

#[test]
fn classes_and_network_are_the_checkpoint_s() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (three, two, others) = (
        images::tree(&at("3"), 3, 8, 32),
        images::tree(&at("2"), 2, 8, 32),
        images::tree(&at("o"), 3, 8, 32),
    );
    for split in ["train", "val"] {
        fs::rename(others.join(split).join("b"), others.join(split).join("bee")).unwrap();
    }
    let fp = at("fp");
    let network = ["--model-arch-name", "ResNet20", "--image-shape", "3,32,32", "--crop-size", "32"];
    let recipe = ["--resize-short", "32", "--batch-size", "8", "--epochs", "1", "--device", "cpu"];
    let place = ["--image-root", text(&three), "--output-dir", text(&fp), "--show-config", "false"];
    // Its own training may have begun with weights that did not fit.
    let digits = trained().join("fp");
    let begun = ["--from-pretrained-params", text(&digits), "--allow-mismatch"];
    succeed(&[&["train"], &network[..], &recipe, &place, &begun].concat());
    assert_eq!(manifest(&fp)["config"]["allow-mismatch"], true);
    let out = at("out");
    let line = ["quantize", "--from-checkpoint", text(&fp), "--output-dir", text(&out)];
    for (data, parts) in
        [(&two, ["the number of classes", "3 there and 2 here"]), (&others, ["`b`", "`bee`"])]
    {
        let told = refuse(2, &[&line[..], &["--image-root", text(data)]].concat());
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    }
    let told = refuse(2, &[&line[..], &["--image-shape", "3,16,16", "--crop-size", "16"]].concat());
    assert!(told.contains("--image-shape"), "{told}");
    let told = refuse(2, &[&line[..], &["--allow-mismatch"]].concat());
    assert!(told.contains("leave --allow-mismatch out"), "{told}");
    assert!(!out.exists());
    succeed(&line);
    assert_eq!(manifest(&out)["class-names"], serde_json::json!(["a", "b", "c"]));
    assert_eq!(manifest(&out)["config"]["allow-mismatch"], false);
}

#[test]
fn only_the_images_that_were_read_are_said_to_have_calibrated() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (data, fp, out) = (images::tree(&at("data"), 3, 8, 32), at("fp"), at("out"));
    let network = ["--model-arch-name", "ResNet20", "--image-shape", "3,32,32", "--crop-size", "32"];
    let recipe = ["--batch-size", "8", "--epochs", "1", "--device", "cpu", "--run-scope", "train_only"];
    let place = ["--image-root", text(&data), "--output-dir", text(&fp)];
    succeed(&[&["train"], &network[..], &recipe, &place].concat());
    for name in ["a/0.jpg", "b/3.png", "c/5.png"] {
        fs::write(data.join("train").join(name), "none").unwrap();
    }
    let line = ["quantize", "--from-checkpoint", text(&fp), "--output-dir", text(&out), "--nproc", "2"];
    let told =
        succeed(&[&line[..], &["--max-corrupt-images", "3", "--qat-calibration-images", "24"]].concat());
    assert!(told.contains("activation ranges on 21 training images"), "{told}");
}

#[test]
fn what_it_does_not_do_and_what_it_lacks_is_said() {
    let (fp, dir) = (trained().join("fp"), tempfile::tempdir().unwrap());
    let out = dir.path().join("out");
    let line = ["quantize", "--from-checkpoint", text(&fp)];
    let told = refuse(2, &line);
    assert!(told.contains("--output-dir"), "{told}");
    let told = refuse(2, &["quantize", "--output-dir", text(&out)]);
    assert!(told.contains("--from-checkpoint"), "{told}");
    let told = refuse(2, &[&line[..], &["--output-dir", text(&out), "--epochs", "3"]].concat());
    assert!(told.contains("leave --epochs out"), "{told}");
    assert!(!out.exists());
    // The folder of the checkpoint itself is a run's own.
    let told = refuse(2, &[&line[..], &["--output-dir", text(&fp)]].concat());
    assert!(told.contains("it holds checkpoints of"), "{told}");
}
