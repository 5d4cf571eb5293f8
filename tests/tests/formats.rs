//! Checkpoints of every format there ever was load, evaluate and export, for ever.
//!
//! `fixtures/checkpoints/format-N` holds one as version N's first writer left it (ResNet20 on the digits, calibrated by
//! `--qat --epochs 0`), its tensors compressed. Never write them anew: they are what is out there.

use octrain_tests::policy::repository;
use octrain_tests::run::{octrain, refuse, said, succeed};
use octrain_tests::verified_as_far_as_sums_are_exact;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The fixture of a format, unpacked; the folder that holds the checkpoint `0`.
fn unpacked(format: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) =
        (repository().join("tests/fixtures/checkpoints").join(format).join("0"), dir.path().join("run/0"));
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(&from).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let packed = fs::read(entry.path()).unwrap();
        match name.strip_suffix(".gz") {
            Some(name) => {
                let mut bytes = Vec::new();
                flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
                fs::write(to.join(name), bytes).unwrap();
            }
            None => fs::write(to.join(name), packed).unwrap(),
        }
    }
    let run = dir.path().join("run");
    (dir, run)
}

#[test]
fn a_checkpoint_of_format_1_evaluates_exports_deploys_and_is_trained_further() {
    let (dir, run) = unpacked("format-1");
    let told = succeed(&["eval", "--from-checkpoint", text(&run), "--show-config", "false"]);
    // What its own writer measured.
    assert!(told.contains("val.top1 96.11"), "{told}");
    assert!(told.contains("a run without identity, epoch 0"), "{told}");
    // Its network has no file of its own, and is built by name.
    let float = dir.path().join("fp32.onnx");
    succeed(&["export", "--from-checkpoint", text(&run), "--profile", "fp32", "--output", text(&float)]);
    succeed(&["verify", "--from-checkpoint", text(&run), "--model", text(&float)]);
    let file = dir.path().join("x.onnx");
    let line = ["export", "--from-checkpoint", text(&run), "--profile", "openvino", "--output", text(&file)];
    let table = dir.path().join("scales.json");
    let told = succeed(&[&line[..], &["--scale-table", text(&table)]].concat());
    // Its codes behind a ReLU ended at 127 for every target, and still do.
    let scales: serde_json::Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
    let scales = scales.as_array().unwrap();
    assert!(scales.iter().any(|s| s["sign"] == "unsigned"));
    for s in scales {
        let [range, scale] = ["absmax", "scale"].map(|key| s[key].as_f64().unwrap());
        assert!(s["largest-code"] == 127 && (range / scale / 127.0 - 1.0).abs() < 1e-6, "{s}");
    }
    assert!(told.contains("a run without identity, epoch 0 (0 steps), val.top1 96.11"), "{told}");
    let verify =
        ["verify", "--from-checkpoint", text(&run), "--model", text(&file), "--max-disagreement", "3"];
    let told = succeed(&[&verify[..], verified_as_far_as_sums_are_exact()].concat());
    assert_eq!(told.matches("epoch 0 (0 steps), val.top1 96.11").count(), 2, "checkpoint and file: {told}");
    // In an engine it was not written for.
    let line = ["infer", "--model", text(&file), "--engine", "onnxruntime", "--image-root", "digits"];
    let told = succeed(&line);
    assert!(told.contains("exported from checkpoint 0: a run without identity, epoch 0"), "{told}");
    assert!(told.contains("written for openvino and runs in onnxruntime"), "{told}");
    let told =
        succeed(&["train", "--resume", text(&run), "--epochs", "1", "--max-steps", "2", "--lr", "0.001"]);
    assert!(told.contains("resumed from") && told.contains("lr 0.256, now 0.001"), "{told}");
    assert!(run.join("0-2/manifest.json").exists() && run.join("0/manifest.json").exists());
    // What goes on from it stands alone by now, and says the same.
    assert!(!run.join("0/graph.json").exists() && run.join("0-2/graph.json").exists());
    let [first, now] = ["0", "0-2"].map(|name| octrain::checkpoint::load(&run.join(name)).unwrap());
    assert_eq!((&now.graph, &now.manifest.preprocessing), (&first.graph, &first.manifest.preprocessing));
    assert_eq!(
        (&now.manifest.strategy, now.manifest.passes),
        (&first.manifest.strategy, first.manifest.passes)
    );
    // The file is of the checkpoint before, and the furthest one is another now.
    let told = refuse(2, &verify);
    assert!(told.contains("was not exported from") && told.contains("epoch 0 and 2 steps"), "{told}");
    succeed(
        &[
            &verify[..],
            &["--last-epoch-of-checkpoint", "0", "--layer-images", "0"],
            verified_as_far_as_sums_are_exact(),
        ]
        .concat(),
    );
}

#[test]
fn a_run_of_the_first_release_is_started_again_by_the_command_it_was_started_with() {
    let (_dir, run) = unpacked("format-1");
    // As that release wrote it for who did not say how long the warm-up is.
    edit(&run, "\"warmup-epochs\": 0.0", "\"warmup-epochs\": 5.0");
    let words = "train --image-root digits --model-arch-name ResNet20 --image-shape 3,32,32 --crop-size 32 \
        --resize-short 32 --batch-size 32 --label-smoothing 0 --qat --qat-calibration-images 64 --device cpu \
        --epochs 1 --last-epoch-of-checkpoint auto --show-config false --output-dir";
    let line: Vec<&str> = words.split_whitespace().chain([text(&run)]).collect();
    let told = succeed(&[&line[..], &["--max-steps", "2"]].concat());
    assert!(told.contains("warmup-epochs null, now 5.0") && told.contains("at epoch 0, step 0"), "{told}");
    // What it has saved by now is of today's format, and still its own.
    let told = succeed(&[&line[..], &["--max-steps", "3"]].concat());
    assert!(told.contains("at epoch 0, step 2"), "{told}");
    let saved: serde_json::Value =
        serde_json::from_slice(&fs::read(run.join("0-3/manifest.json")).unwrap()).unwrap();
    assert_eq!(saved["config"]["warmup-epochs"], 5.0);
    // What is said stands.
    let told = refuse(2, &[&line[..], &["--max-steps", "4", "--warmup-epochs", "1"]].concat());
    assert!(told.contains("warmup-epochs 5.0, now 1.0"), "{told}");
}

/// Changes the text of the fixture's manifest.
fn edit(run: &Path, from: &str, to: &str) {
    let path = run.join("0/manifest.json");
    let old = fs::read_to_string(&path).unwrap();
    assert!(old.contains(from), "{from}");
    fs::write(&path, old.replacen(from, to, 1)).unwrap();
}

#[test]
fn keys_of_a_newer_writer_are_named_and_missing_ones_have_their_default() {
    let (_dir, run) = unpacked("format-1");
    edit(&run, "\"zero-gamma\": false", "\"sharpness-aware\": 0.05");
    let told = succeed(&["eval", "--from-checkpoint", text(&run), "--show-config", "false"]);
    assert!(told.contains("config.sharpness-aware") && told.contains("leaves out"), "{told}");
    assert!(told.contains("val.top1 96.11"), "{told}");

    edit(&run, "\"amp\": \"off\"", "\"amp\": \"fp8\"");
    let told = refuse(2, &["eval", "--from-checkpoint", text(&run), "--show-config", "false"]);
    assert!(told.contains("fp8") && !told.contains("damaged"), "{told}");
    edit(&run, "\"format\": 1", "\"format\": 99");
    let output = octrain(&["eval", "--from-checkpoint", text(&run), "--show-config", "false"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("format 99") && said(&output).contains("newer octrain"));
}
