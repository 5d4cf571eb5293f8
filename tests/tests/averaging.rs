//! A run that averages its weights: the average is what is evaluated, saved and exported, and training goes on with the
//! weights.

use octrain_tests::run::{SMALL, newest, refuse, report, succeed, tensors};
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn train(output: &Path, extra: &[&str]) -> String {
    let flags = ["--batch-size", "16", "--epochs", "1", "--max-steps", "12", "--lr", "0.02"];
    succeed(&[&["train"], SMALL, &flags, &["--output-dir", text(output)], extra].concat())
}

#[test]
fn the_average_is_the_network_of_its_checkpoint_and_training_goes_on_with_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let [with, without, log, file] =
        ["with", "without", "log.jsonl", "x.onnx"].map(|name| dir.path().join(name));
    let ema = ["--model-ema", "--model-ema-decay", "0.999", "--model-ema-steps", "2"];
    let told = train(&with, &[&ema[..], &["--report-file", text(&log)]].concat());
    assert!(told.contains("unaveraged: top1"), "{told}");
    train(&without, &[]);
    let (ours, theirs) = (newest(&with), newest(&without));
    // What is trained does not depend on it.
    assert!(tensors(&ours.join("unaveraged.safetensors")) == tensors(&theirs.join("model.safetensors")));
    assert!(tensors(&ours.join("optimizer.safetensors")) == tensors(&theirs.join("optimizer.safetensors")));
    assert!(tensors(&ours.join("model.safetensors")) != tensors(&theirs.join("model.safetensors")));
    assert!(!theirs.join("unaveraged.safetensors").exists());
    // Each is measured.
    let loss = |kind: &str, key: &str| report(&log, kind)[0][key].as_f64().expect("a loss");
    let (averaged, trained) = (loss("eval", "val.loss"), loss("unaveraged", "unaveraged.loss"));
    assert!(averaged != trained);
    let measured = |line: &[&str]| {
        let told = succeed(line);
        let at = told.find("val.loss ").unwrap_or_else(|| panic!("no val.loss in {told}"));
        told[at..].split_whitespace().nth(1).unwrap().to_string()
    };
    let evaluated = measured(&["eval", "--from-checkpoint", text(&ours)]);
    assert_eq!(evaluated, format!("{averaged:.4}"));
    let alone = ours.join("unaveraged.safetensors");
    let weights = ["--from-pretrained-params", text(&alone), "--run-scope", "eval_only"];
    let evaluated = measured(&[&["train"], SMALL, &weights, &["--output-dir", text(dir.path())]].concat());
    assert_eq!(evaluated, format!("{trained:.4}"));
    // Exported is the average, as its checkpoint's weights.
    let export = ["export", "--from-checkpoint", text(&with), "--profile", "fp32", "--output", text(&file)];
    assert!(succeed(&export).contains("the average of those that were trained"));
    succeed(&["verify", "--from-checkpoint", text(&with), "--model", text(&file), "--max-images", "50"]);
    // Quantized without training it is the average, too, and nothing is averaged on.
    let quantized = dir.path().join("quantized");
    let line = ["quantize", "--from-checkpoint", text(&with), "--output-dir", text(&quantized)];
    succeed(&[&line[..], &["--qat-calibration-images", "32"]].concat());
    let weight = |folder: &Path| tensors(&folder.join("model.safetensors"))["fc.weight"].clone();
    assert!(weight(&newest(&quantized)) == weight(&ours));
    assert!(!newest(&quantized).join("unaveraged.safetensors").exists());
}

#[test]
fn to_average_where_nothing_is_trained_and_its_settings_without_it_are_refused() {
    let told = refuse(2, &[&["train"], SMALL, &["--model-ema-decay", "0.9"]].concat());
    assert!(
        told.contains("--model-ema-decay is part of the average of weights: say --model-ema too"),
        "{told}"
    );
    let line = ["--qat", "--epochs", "0", "--model-ema", "--from-pretrained-params", "x"];
    let told = refuse(2, &[&["train"], SMALL, &line].concat());
    assert!(told.contains("--model-ema averages weights that are trained, and --epochs is 0"), "{told}");
}
