//! What evaluations are good for besides one number: the best checkpoint beside the last, and the accuracy of each class.

use octrain_tests::images;
use octrain_tests::run::{refuse, report, succeed};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Four epochs of a rate that jumps about, on two workers: every epoch is evaluated, none but the last is due to be saved.
fn trained() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let made = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let data = images::tree(&dir.path().join("data"), 3, 12, 36);
        let (out, lines) = (dir.path().join("out"), dir.path().join("train.jsonl"));
        let network = ["--model-arch-name", "ResNet20", "--crop-size", "32", "--device", "cpu"];
        let recipe =
            ["--batch-size", "6", "--nproc", "2", "--epochs", "4", "--lr", "0.1", "--save-interval", "9"];
        let place = ["--image-root", text(&data), "--output-dir", text(&out), "--report-file", text(&lines)];
        succeed(&[&["train"], &network[..], &recipe, &place].concat());
        dir
    });
    made.path()
}

fn checkpoints(out: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(out)
        .unwrap()
        .flatten()
        .filter(|e| e.path().join("manifest.json").exists())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn manifest(folder: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

/// The epoch of the highest top-1, the first of equals, and that top-1.
fn best(lines: &Path) -> (u64, f64) {
    let evaluated = report(lines, "eval");
    assert_eq!(evaluated.len(), 4);
    let mut best = (0, f64::NEG_INFINITY);
    for e in evaluated {
        let top1 = e["val.top1"].as_f64().unwrap();
        if top1 > best.1 {
            best = (e["epoch"].as_u64().unwrap(), top1);
        }
    }
    best
}

#[test]
fn the_best_checkpoint_is_kept_beside_the_last_and_found_by_its_name() {
    let (dir, out) = (trained(), trained().join("out"));
    let (epoch, top1) = best(&dir.join("train.jsonl"));
    let mut wanted = vec![epoch.to_string(), "4".to_string()];
    wanted.dedup();
    assert_eq!(checkpoints(&out), wanted);
    assert_eq!(manifest(out.join(epoch.to_string()))["metrics"]["val.top1"].as_f64(), Some(top1));
    let which = ["--from-checkpoint", text(&out), "--last-epoch-of-checkpoint", "best"];
    let told = succeed(&[&["eval"], &which[..], &["--show-config", "false"]].concat());
    let place = format!("checkpoint {}: ", out.join(epoch.to_string()).display());
    assert!(told.contains(&place) && told.contains(&format!("val.top1 {top1:.2}")), "{told}");
    let file = dir.join("best.onnx");
    let told = succeed(&[&["export"], &which[..], &["--profile", "fp32", "--output", text(&file)]].concat());
    assert!(told.contains(&place), "{told}");
    let told =
        succeed(&[&["verify"], &which[..], &["--model", text(&file), "--max-disagreement", "5"]].concat());
    assert!(told.contains(&place), "{told}");
    let told = refuse(2, &["eval", "--from-checkpoint", text(&out), "--last-epoch-of-checkpoint", "finest"]);
    assert!(told.contains("`auto`, `best`"), "{told}");
}

#[test]
fn the_accuracy_of_each_class_adds_up_to_that_of_all() {
    let (dir, out) = (trained(), trained().join("out"));
    let (all, classes) =
        (report(&dir.join("train.jsonl"), "eval"), report(&dir.join("train.jsonl"), "classes"));
    assert_eq!((all.len(), classes.len()), (4, 4));
    for (all, classes) in all.iter().zip(&classes) {
        assert_eq!(all["epoch"], classes["epoch"]);
        let each = classes["val.classes"].as_array().unwrap();
        let names: Vec<&str> = each.iter().map(|c| c["class"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let images = |c: &Value| c["images"].as_f64().unwrap();
        assert_eq!(each.iter().map(images).sum::<f64>(), all["val.images"].as_f64().unwrap());
        let right: f64 = each.iter().map(|c| images(c) * c["top1"].as_f64().unwrap() / 100.0).sum();
        let top1 = 100.0 * right / all["val.images"].as_f64().unwrap();
        assert!((top1 - all["val.top1"].as_f64().unwrap()).abs() < 1e-9, "{classes} {all}");
    }
    // A class that the validation set lacks has no accuracy, and is not in the table.
    let less = dir.join("less");
    images::tree(&less, 3, 3, 36);
    fs::remove_dir_all(less.join("val/b")).unwrap();
    let lines = dir.join("less.jsonl");
    let line =
        ["eval", "--from-checkpoint", text(&out), "--image-root", text(&less), "--report-file", text(&lines)];
    let told = succeed(&[&line[..], &["--allow-missing-classes", "--show-config", "false"]].concat());
    let told: Vec<&str> = told.lines().skip_while(|l| !l.starts_with("class ")).collect();
    assert_eq!(
        told.first().map(|l| l.split_whitespace().collect::<Vec<_>>()),
        Some(vec!["class", "images", "top1"])
    );
    assert!(
        told.iter().any(|l| l.starts_with("a ")) && !told.iter().any(|l| l.starts_with("b ")),
        "{told:?}"
    );
    let classes = report(&lines, "classes").pop().unwrap();
    assert_eq!(classes["val.classes"][1]["top1"], Value::Null);
    assert_eq!(classes["val.classes"][0]["images"], 3);
}
