//! A step is the same on any number of workers, and a resumed run goes on bit for bit.

use octrain_tests::run::{Running, SMALL, newest, report, succeed, tensors};
use std::path::Path;

fn losses(file: &Path) -> Vec<f64> {
    report(file, "step").iter().map(|l| l["train.loss"].as_f64().expect("a loss")).collect()
}

#[test]
fn one_two_and_four_workers_follow_the_same_loss_curve() {
    let dir = tempfile::tempdir().unwrap();
    let runs = ["1", "2", "4"].map(|world| {
        let (file, output) = (dir.path().join(format!("{world}.jsonl")), dir.path().join(world));
        let flags = ["--nproc", world, "--batch-size", "16", "--global-batch-size", "64", "--max-steps", "8"];
        // One thread each, and a rate at which rounding does not grow: as it is, step to step.
        let rest = [
            "--threads",
            "1",
            "--epochs",
            "1",
            "--lr",
            "0.002",
            "--print-interval",
            "1",
            "--run-scope",
            "train_only",
        ];
        let paths = ["--report-file", file.to_str().unwrap(), "--output-dir", output.to_str().unwrap()];
        succeed(&[&["train"], SMALL, &flags, &rest, &paths].concat());
        losses(&file)
    });
    assert_eq!(runs[0].len(), 8);
    for other in &runs[1..] {
        for (step, (a, b)) in runs[0].iter().zip(other).enumerate() {
            assert!((a - b).abs() < 1e-3 * a, "step {step}: {a} on one worker, {b} on more");
        }
    }
    // The curve does move, so that equal curves mean something.
    let (low, high) =
        (runs[0].iter().copied().fold(f64::MAX, f64::min), runs[0].iter().copied().fold(0.0, f64::max));
    assert!(high - low > 0.05, "{:?}", runs[0]);
}

/// Thirty steps at once against some of them, a Ctrl-C, and the rest from what it saved within the epoch.
fn resumes(extra: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let flags =
        ["--nproc", "2", "--batch-size", "8", "--epochs", "1", "--lr", "0.05", "--run-scope", "train_only"];
    let line = ["--max-steps", "30", "--print-interval", "1"];
    let line = [&["train"], SMALL, &flags, extra, &line].concat();
    succeed(&[&line[..], &["--output-dir", &at("whole")]].concat());

    let parts = at("parts");
    let mut run = Running::start(&[&line[..], &["--output-dir", &parts]].concat());
    run.wait_for("step 5/");
    run.signal("INT", run.id());
    let (code, told) = run.end();
    assert_eq!(code, Some(4), "{told}");
    let half = newest(Path::new(&parts));
    let name = half.file_name().unwrap().to_str().unwrap().to_string();
    let step: u32 = name.strip_prefix("0-").expect("within the epoch").parse().unwrap();
    assert!((5..30).contains(&step), "stopped at step {step}");
    let told =
        succeed(&[&line[..], &["--output-dir", &parts, "--last-epoch-of-checkpoint", "auto"]].concat());
    assert!(told.contains(&format!("at epoch 0, step {step}")), "{told}");
    let files = ["model.safetensors", "optimizer.safetensors", "unaveraged.safetensors"];
    for file in &files[..if extra.contains(&"--model-ema") { 3 } else { 2 }] {
        let [a, b] = [at("whole"), parts.clone()].map(|f| tensors(&newest(Path::new(&f)).join(file)));
        assert!(!a.is_empty());
        assert!(a == b, "{file} differs after resuming at step {step}");
    }
}

#[test]
fn a_run_resumed_within_an_epoch_is_bit_identical() {
    resumes(&[]);
}

#[test]
fn so_is_one_in_bf16_with_qat() {
    resumes(&["--amp", "bf16", "--qat", "--qat-calibration-images", "32", "--qat-bn-images", "32"]);
}

#[test]
fn so_is_one_in_fp16_with_dynamic_loss_scaling() {
    resumes(&["--amp", "fp16", "--scale-loss", "1024", "--use-dynamic-loss-scaling"]);
}

#[test]
fn so_is_one_with_adamw_learned_scales_and_clipped_gradients() {
    let rule =
        ["--optimizer", "adamw", "--lr", "0.002", "--weight-decay", "0.01", "--norm-weight-decay", "0.001"];
    let rule = [&rule[..], &["--clip-grad-norm", "1"]].concat();
    let qat = ["--qat", "--qat-calibration-images", "32", "--qat-learn-scales"];
    resumes(&[&rule[..], &qat].concat());
}

#[test]
fn so_is_one_whose_weights_are_averaged() {
    resumes(&[
        "--model-ema",
        "--model-ema-decay",
        "0.995",
        "--model-ema-steps",
        "3",
        "--qat",
        "--qat-bn-images",
        "32",
    ]);
}
