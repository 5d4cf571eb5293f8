//! `--val-fraction`: a validation split taken from one folder of classes.

use octrain_tests::images;
use octrain_tests::run::{refuse, report, succeed};
use std::fs;
use std::path::{Path, PathBuf};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// One folder of three classes of 30 images.
fn one_folder(dir: &Path) -> PathBuf {
    images::tree(&dir.join("made"), 3, 30, 36);
    let data = dir.join("data");
    fs::rename(dir.join("made/train"), &data).unwrap();
    data
}

const SHORT: &[&str] = &[
    "--model-arch-name",
    "ResNet20",
    "--crop-size",
    "32",
    "--device",
    "cpu",
    "--batch-size",
    "8",
    "--max-steps",
    "1",
    "--show-config",
    "false",
];

/// Images of the halves, as the start of a run tells them.
fn halves(told: &str) -> [usize; 2] {
    ["train: ", "val: "].map(|split| {
        let rest = told.split(split).nth(1).unwrap_or_else(|| panic!("{split} in {told}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    })
}

#[test]
fn a_part_of_one_folder_is_held_out_and_used_by_all_who_evaluate() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (data, out, file, lines) = (one_folder(dir.path()), at("out"), at("m.onnx"), at("infer.jsonl"));
    let place = ["--image-root", text(&data), "--output-dir", text(&out), "--val-fraction", "0.25"];
    let told = succeed(&[&["train"], SHORT, &place].concat());
    let [train, val] = halves(&told);
    assert!(train + val == 90 && (10..40).contains(&val), "{told}");
    // Of other data nothing is held out but by the flag, whoever measures; the same data is its own, however it is told.
    let whole = images::tree(&at("whole"), 3, 4, 36);
    let from = ["--from-checkpoint", text(&out), "--show-config", "false"];
    for (root, images) in [(text(&whole), 12), (text(&data), val)] {
        let root = ["--image-root", root];
        let told = succeed(&[&["eval"], &from[..], &root].concat());
        assert!(told.contains(&format!("({images} images")), "{told}");
        let quantized = at(&format!("quantized-{images}"));
        let more = ["--output-dir", text(&quantized), "--qat-calibration-images", "8"];
        let told = succeed(&[&["quantize"], &from[..], &root, &more].concat());
        assert!(told.contains(&format!("({images} images")), "{told}");
    }
    let told = succeed(&[&["eval"], &from[..]].concat());
    assert!(told.contains(&format!("({val} images")), "{told}");
    succeed(&["export", "--from-checkpoint", text(&out), "--profile", "fp32", "--output", text(&file)]);
    let told = succeed(&[
        "verify",
        "--from-checkpoint",
        text(&out),
        "--model",
        text(&file),
        "--max-disagreement",
        "9",
    ]);
    assert!(told.contains(&format!("\n{val} images: verify.top1_graph")), "{told}");
    let line = ["infer", "--model", text(&file), "--image-root", text(&data), "--report-file", text(&lines)];
    refuse(2, &line);
    succeed(&[&line[..], &["--val-fraction", "0.25"]].concat());
    assert_eq!(report(&lines, "infer").pop().unwrap()["infer.images"], val);
    // More images come: those that were there stay where they were, so each half grows by no more than the new ones.
    let more = images::tree(&at("more"), 3, 40, 36).join("train");
    for class in ["a", "b", "c"] {
        for i in 30..40 {
            let name = format!("{class}/{i}.{}", if i % 2 == 0 { "jpg" } else { "png" });
            fs::copy(more.join(&name), data.join(&name)).unwrap();
        }
    }
    let plan = [&["plan"], SHORT, &place[..2], &place[4..]].concat();
    let [more_train, more_val] = halves(&succeed(&plan));
    assert!(
        more_train + more_val == 120 && more_train >= train && more_val >= val,
        "{more_train} {more_val}"
    );
}

#[test]
fn what_cannot_be_split_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let data = one_folder(dir.path());
    let plan = |root: &str, fraction: &str| {
        let place = ["--image-root", root, "--val-fraction", fraction];
        refuse(2, &[&["plan"], SHORT, &place[..]].concat())
    };
    let told = plan(text(&data), "1e-6");
    assert!(told.contains("30 images of class `a`") && told.contains("falls to validation"), "{told}");
    assert!(plan(text(&data), "1").contains("--val-fraction is 1"));
    assert!(plan("digits", "0.1").contains("validation of its own"));
    // Without the flag, the message names it.
    let told = plan(text(&data), "0");
    assert!(told.contains("no folder `train/`") && told.contains("--val-fraction 0.1"), "{told}");
    let both = images::tree(&dir.path().join("both"), 2, 4, 36);
    let told = plan(text(&both), "0.5");
    assert!(told.contains("`val/`") && told.contains("--val-fraction 0"), "{told}");
    // `train/` alone is such a folder, too.
    let alone = images::tree(&dir.path().join("alone"), 2, 40, 36);
    fs::remove_dir_all(alone.join("val")).unwrap();
    assert!(plan(text(&alone), "0").contains("--val-fraction 0.1"));
    let line = [&["plan"], SHORT, &["--image-root", text(&alone), "--val-fraction", "0.3"]].concat();
    let [train, val] = halves(&succeed(&line));
    assert_eq!(train + val, 80);
}
