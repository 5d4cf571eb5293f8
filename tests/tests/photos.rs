//! Photographs as cameras and the web make them (grey ones, odd sizes, foreign colour profiles), where the sample of
//! them lies beside the repository; a clone without it skips these, visibly.

use octrain_tests::policy::repository;
use octrain_tests::run::{report, succeed};
use octrain_tests::{adds_exactly, skipped, verified_as_far_as_sums_are_exact};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The sample: 250 photographs of as many classes, here both to train and to evaluate on.
fn photos() -> Option<(TempDir, PathBuf)> {
    let archive = repository().join("../shared/data/imagenet-sample.tar");
    if !archive.exists() {
        skipped(&format!("the photographs: {} is not there", archive.display()));
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir.path()).status();
    assert!(unpacked.unwrap().success(), "{} cannot be unpacked", archive.display());
    std::os::unix::fs::symlink(dir.path().join("train"), dir.path().join("val")).unwrap();
    let root = dir.path().to_path_buf();
    Some((dir, root))
}

#[test]
fn all_are_read_trained_on_and_deployed() {
    let Some((_dir, data)) = photos() else { return };
    let (output, file) = (data.join("out"), data.join("train.jsonl"));
    let network = ["--model-arch-name", "ResNet18", "--num-of-class", "250", "--image-shape", "3,64,64"];
    let network = [&network[..], &["--augmentation", "random-resized-crop", "--resize-short", "72"]].concat();
    let recipe = ["--qat", "--amp", "bf16", "--batch-size", "8", "--nproc", "2", "--epochs", "1"];
    let limits = ["--max-steps", "2", "--qat-calibration-images", "16", "--lr", "0.01", "--device", "cpu"];
    let paths = ["--image-root", text(&data), "--output-dir", text(&output), "--report-file", text(&file)];
    succeed(&[&["train"], &network[..], &recipe, &limits, &paths, &["--max-corrupt-images", "0"]].concat());
    let evaluated = report(&file, "eval").pop().expect("an evaluation");
    assert_eq!((evaluated["val.images"].as_u64(), evaluated["val.corrupt"].as_u64()), (Some(250), Some(0)));
    for profile in ["openvino", "onnxruntime"] {
        let (model, file) = (data.join(format!("{profile}.onnx")), data.join("verify.jsonl"));
        let line = ["--from-checkpoint", text(&output)];
        let export = ["--profile", profile, "--output", text(&model)];
        succeed(&[&["export"], &line[..], &export].concat());
        let verify = ["--model", text(&model), "--engine", profile, "--report-file", text(&file)];
        // Untrained logits of 250 classes lie close together: what counts here are the codes.
        let rest = ["--image-root", text(&data), "--max-images", "50", "--max-disagreement", "100"];
        succeed(&[&["verify"], &line[..], &verify, &rest, verified_as_far_as_sums_are_exact()].concat());
        let told = report(&file, "verify").pop().unwrap();
        assert_eq!(told["verify.images"].as_u64(), Some(50), "{told}");
        assert_eq!(told["verify.fp32_nodes"].as_u64(), Some(0), "{told}");
        let codes = told["verify.lsb_within_1"].as_f64().unwrap();
        assert!(codes >= 99.9 || !adds_exactly("codes of deployed files"), "{told}");
    }
}
