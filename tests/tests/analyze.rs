//! `octrain analyze` by the command line: a floating-point checkpoint and one of --qat, a layer that was made bad on
//! purpose, and what is refused.

use octrain::checkpoint::{self, HostTensor, Snapshot};
use octrain_tests::run::{SMALL, newest, refuse, report, succeed};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

fn folder() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// A floating-point checkpoint that knows its digits.
fn trained() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let output = folder().join("fp");
        let flags = ["--epochs", "2", "--batch-size", "32", "--lr", "0.05"];
        let whole = ["--run-scope", "train_only", "--threads", "2", "--output-dir", output.to_str().unwrap()];
        succeed(&[&["train"], SMALL, &flags, &whole].concat());
        output
    })
}

fn snapshot() -> Snapshot {
    checkpoint::load(&newest(trained())).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn analyze<'a>(checkpoint: &'a Path, extra: &[&'a str]) -> Vec<&'a str> {
    [&["analyze", "--threads", "2", "--from-checkpoint", text(checkpoint)], extra].concat()
}

/// One tensor of a checkpoint.
fn tensor<'a>(snapshot: &'a mut Snapshot, name: &str) -> &'a mut HostTensor {
    snapshot.model.get_mut(name).unwrap_or_else(|| panic!("{name}"))
}

/// A network whose `layer2.0.conv2` is as good as before in floating point and useless in INT8: the first of its input
/// channels is dead, and the weights that read it are huge, so that all other weights of a channel round to 0.
fn bad() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let mut snapshot = snapshot();
        for name in ["layer2.0.bn1.weight", "layer2.0.bn1.bias"] {
            tensor(&mut snapshot, name).data[0] = 0.0;
        }
        let weight = tensor(&mut snapshot, "layer2.0.conv2.weight");
        assert_eq!(weight.shape, [32, 32, 3, 3]);
        weight.data.chunks_mut(32 * 9).for_each(|channel| channel[4] = 1000.0);
        let root = folder().join("bad");
        checkpoint::save(&root, &snapshot).unwrap();
        root
    })
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

#[test]
fn a_floating_point_checkpoint_is_calibrated_and_every_layer_ranked() {
    let (lines, page) = (folder().join("fp.jsonl"), folder().join("fp.html"));
    let flags =
        ["--report-file", text(&lines), "--html", text(&page), "--max-images", "90", "--leave-one-out"];
    let said = succeed(&analyze(trained(), &flags));
    assert!(said.contains("32 ranges calibrated on 512 training images"), "{said}");
    let layers = report(&lines, "analyze-layer");
    assert_eq!(layers.iter().filter(|l| l["analyze.op"] == "Conv").count(), 21);
    assert_eq!(layers.iter().filter(|l| l["analyze.op"] == "Linear").count(), 1);
    let losses: Vec<f64> = layers.iter().map(|l| number(l, "analyze.accuracy_loss").max(0.0)).collect();
    assert!(losses.windows(2).all(|w| w[0] >= w[1]), "{losses:?}");
    for l in layers.iter().filter(|l| l["analyze.op"] != "Add") {
        // Random weights of a channel have 40 to 50 dB in 8 bits; behind the layer there are the input's codes too.
        assert!((35.0..60.0).contains(&number(l, "analyze.weight_sqnr_db")), "{l}");
        assert!((20.0..60.0).contains(&number(l, "analyze.output_sqnr_db")), "{l}");
        assert!(l["analyze.top1_regained"].is_f64(), "{l}");
    }
    let whole = &report(&lines, "analyze")[0];
    assert_eq!(whole["analyze.images"], 90);
    assert!(number(whole, "analyze.top1_float") > 60.0, "{whole}");
    assert!(number(whole, "analyze.agreement") > 90.0, "{whole}");
    for q in report(&lines, "analyze-quantizer") {
        let counted: u64 =
            q["analyze.histogram"].as_array().unwrap().iter().map(|c| c.as_u64().unwrap()).sum();
        assert!(counted > 0 && number(&q, "analyze.sqnr_db") > 20.0, "{q}");
        assert!(number(&q, "analyze.min") <= number(&q, "analyze.mean"), "{q}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    let quantizers = report(&lines, "analyze-quantizer").len();
    assert_eq!(html.matches("<svg").count(), 5 + quantizers, "bar charts and histograms");
    assert!(said.lines().filter(|l| l.starts_with("layer") && l.contains("Conv")).count() >= 20, "{said}");
}

#[test]
fn a_checkpoint_of_qat_brings_its_ranges_for_every_target() {
    let output = folder().join("qat");
    let start = ["--from-pretrained-params", text(trained()), "--output-dir", text(&output)];
    let recipe = ["--qat", "--epochs", "1", "--max-steps", "6", "--lr", "0.001", "--run-scope", "train_only"];
    let calibration = ["--batch-size", "32", "--qat-calibration-images", "64", "--threads", "2"];
    succeed(&[&["train"], SMALL, &start, &recipe, &calibration].concat());
    let ranges = checkpoint::load(&newest(&output)).unwrap().model;
    for target in ["openvino", "onnxruntime", "tensorrt"] {
        let lines = folder().join(format!("{target}.jsonl"));
        let flags = ["--report-file", text(&lines), "--max-images", "20", "--target", target];
        let said = succeed(&analyze(&output, &flags));
        assert!(said.contains("ranges of the checkpoint") && said.contains(target), "{said}");
        let quantizers = report(&lines, "analyze-quantizer");
        for q in &quantizers {
            let key = checkpoint::range_key(q["analyze.quantizer"].as_str().unwrap());
            assert_eq!(number(q, "analyze.range") as f32, ranges[&key].data[0], "{key}");
        }
        let pools =
            report(&lines, "analyze-layer").iter().filter(|l| l["analyze.op"] == "GlobalAvgPool").count();
        assert_eq!(pools, usize::from(target == "onnxruntime"));
    }
}

#[test]
fn a_bad_layer_is_ranked_first_and_skipping_it_is_proposed_and_works() {
    let lines = folder().join("bad.jsonl");
    let flags = ["--report-file", text(&lines), "--max-images", "180", "--max-accuracy-loss", "2"];
    let said = succeed(&analyze(bad(), &flags));
    let layers = report(&lines, "analyze-layer");
    let (first, second) = (&layers[0], &layers[1]);
    assert_eq!(first["analyze.layer"], "layer2.0.conv2", "{said}");
    assert!(number(first, "analyze.accuracy_loss") > 5.0 + number(second, "analyze.accuracy_loss"), "{said}");
    assert!(number(first, "analyze.output_sqnr_db") < 10.0, "{first}");
    assert!(number(first, "analyze.weights_lost") > 0.9, "{first}");
    let whole = &report(&lines, "analyze")[0];
    assert_eq!(whole["analyze.proposal"], "skip", "{said}");
    assert_eq!(whole["analyze.qat_skip"], json!(["layer2.0.conv2"]), "{said}");
    assert!(said.contains("--qat-skip layer2.0.conv2\n"), "{said}");
    assert!(said.contains("never anything but 0 in `layer2.0.bn1.relu`: "), "{said}");
    // With the layer skipped from the start the budget is met, by the top-1 that was proposed.
    let flags = [&flags[..], &["--qat-skip", "layer2.0.conv2"]].concat();
    let said = succeed(&analyze(bad(), &flags));
    let again = &report(&lines, "analyze")[0];
    assert_eq!(again["analyze.proposal"], "met", "{said}");
    assert_eq!(again["analyze.top1_quantized"], whole["analyze.top1_proposed"]);
    assert!(report(&lines, "analyze-layer").iter().all(|l| l["analyze.layer"] != "layer2.0.conv2"));
}

#[test]
fn what_cannot_be_analyzed_is_refused() {
    let nowhere = refuse(2, &analyze(&folder().join("nothing"), &[]));
    assert!(nowhere.contains("no checkpoint"), "{nowhere}");
    for (flags, wanted) in [
        (["--max-images", "0"], "--max-images"),
        (["--batch-size", "0"], "--batch-size"),
        (["--max-accuracy-loss", "-1"], "--max-accuracy-loss"),
        (["--max-accuracy-loss", "NaN"], "--max-accuracy-loss"),
        (["--qat-skip", "no-such-layer"], "no-such-layer"),
        (["--qat-skip", "*"], "no layer is quantized"),
        (["--image-root", "/nonexistent"], "/nonexistent"),
    ] {
        let said = refuse(2, &analyze(trained(), &flags));
        assert!(said.contains(wanted), "{flags:?}: {said}");
    }
    let empty = folder().join("empty");
    for split in ["train", "val"] {
        (0..10).for_each(|c| std::fs::create_dir_all(empty.join(split).join(c.to_string())).unwrap());
    }
    let said = refuse(2, &analyze(trained(), &["--image-root", text(&empty)]));
    assert!(said.contains("holds no") || said.contains("no readable image"), "{said}");
    // Weights that are not those of the graph beside them are not saved (bad_checkpoints.rs has those that are there).
    let mut other = snapshot();
    let moved = other.model.remove("layer2.1.conv1.weight").unwrap();
    other.model.insert("layer2.1.conv7.weight".into(), moved);
    let root = folder().join("other");
    let said = checkpoint::save(&root, &other).unwrap_err().to_string();
    assert!(said.contains("layer2.1.conv1.weight") && said.contains("layer2.1.conv7.weight"), "{said}");
}

#[test]
fn nan_is_an_error_that_names_the_layer() {
    let mut broken = snapshot();
    tensor(&mut broken, "layer2.1.bn1.running_mean").data[3] = f32::NAN;
    let root = folder().join("nan");
    checkpoint::save(&root, &broken).unwrap();
    let said = refuse(1, &analyze(&root, &[]));
    assert!(said.contains("layer `layer2.1.bn1`") && said.contains("training images"), "{said}");
}
