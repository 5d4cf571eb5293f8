//! Checkpoints that PaddlePaddle itself writes become Octrain's: the logits are Paddle's, momentum is where it belongs, and
//! the reference's training script takes the folder as it is. `scripts/import-paddle.sh` makes the Python environment that
//! has PaddlePaddle; without it the tests are skipped visibly.

use octrain::checkpoint::{self, Snapshot};
use octrain::exec::{Evaluator, Mode};
use octrain::passes;
use octrain::strategy::{Purpose, Strategy};
use octrain_tests::policy::repository;
use octrain_tests::run::{newest, succeed};
use octrain_tests::{Python, binary, skipped};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tch::{Device, Tensor};

const CLASSES: &str = "10";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The interpreter that has PaddlePaddle, if somebody made it.
fn paddle() -> Option<Python> {
    let python = std::env::var_os("OCTRAIN_PADDLE_PYTHON").map(PathBuf::from);
    let python = python.filter(|path| path.exists());
    if python.is_none() {
        skipped(
            "OCTRAIN_PADDLE_PYTHON names no Python with PaddlePaddle; scripts/import-paddle.sh makes one and runs this",
        );
    }
    python.map(Python::at)
}

/// A ResNet-50 that Paddle wrote.
struct Theirs {
    folder: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

fn write(python: &Python, dir: &Path, form: &[&str; 5], side: &str) -> Theirs {
    let name = form.join("_");
    let (folder, out) = (dir.join(&name), dir.join(format!("{name}.safetensors")));
    let words = [&form[..], &[side, CLASSES, text(&folder), text(&out)]].concat();
    let words: Vec<&OsStr> = words.into_iter().map(OsStr::new).collect();
    python.run("paddle_resnet.py", &words);
    Theirs { folder, tensors: Tensor::read_safetensors(&out).unwrap().into_iter().collect() }
}

/// What a checkpoint's network makes of images in floating point.
fn logits(checkpoint: &Snapshot, images: &Tensor) -> Tensor {
    let graph = passes::run(checkpoint.graph.clone(), &Strategy::default(), Purpose::Eval).unwrap();
    let mode = Mode::evaluation(false);
    Evaluator::of_state(graph, &checkpoint.model, mode, Device::Cpu).unwrap().logits(images).unwrap()
}

/// Fails where logits are further apart than 1e-4, of the largest where that is above 1, or momentum is not Paddle's.
fn assert_same(form: &[&str; 5], theirs: &Theirs, ours: &Snapshot) {
    let (images, wanted) = (&theirs.tensors["images"], &theirs.tensors["logits"]);
    let found = logits(ours, images);
    let largest = wanted.abs().max().double_value(&[]);
    let apart = (&found - wanted).abs().max().double_value(&[]);
    let told = (wanted.get(0) - wanted.get(1)).abs().max().double_value(&[]);
    println!(
        "{}: logits up to {largest:.3}, apart by {apart:.2e}; two images differ by {told:.3}",
        form.join(" ")
    );
    assert!(apart <= 1e-4 * largest.max(1.0), "{form:?}: {apart:.2e} apart, up to {largest:.3}");
    assert!(told > 100.0 * apart, "{form:?}: the images do not tell");
    let velocities: Vec<_> =
        theirs.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix("velocity.")?, t))).collect();
    assert_eq!((velocities.len(), ours.optimizer.len()), (161, 161));
    for (name, velocity) in velocities {
        let held = &ours.optimizer[&format!("momentum.{name}")];
        let shape: Vec<usize> = velocity.size().iter().map(|d| *d as usize).collect();
        assert_eq!(held.shape, shape, "{name}");
        let bits: Vec<f32> = Vec::try_from(velocity.flatten(0, -1)).unwrap();
        assert_eq!(held.data, bits, "{name}");
    }
}

#[test]
fn networks_of_paddle_compute_the_same_here_and_keep_their_momentum() {
    let Some(python) = paddle() else { return };
    let dir = tempfile::tempdir().unwrap();
    for form in [
        ["old", "NCHW", "3", "float32", "infer"],
        ["old", "NHWC", "4", "float32", "infer"],
        ["old", "NCHW", "4", "float32", "train"],
        ["old", "NHWC", "3", "float16", "infer"],
        ["old", "NCHW", "3", "bfloat16", "infer"],
        ["new", "NCHW", "4", "float32", "infer"],
        ["new", "NHWC", "3", "float32", "train"],
        ["new", "NCHW", "3", "float32", "dynamic"],
        ["new", "NHWC", "4", "float32", "dynamic"],
    ] {
        let theirs = write(&python, dir.path(), &form, "64");
        let output = dir.path().join("imported");
        let line = ["import", text(&theirs.folder), "--output-dir", text(&output), "--image-shape"];
        let shape = format!("{},64,64", form[2]);
        let told = succeed(&[&line[..], &[&shape, "--overwrite"]].concat());
        assert!(told.contains("(Paddle): ResNet50") && told.contains("momentum of 161 parameters"), "{told}");
        assert_same(&form, &theirs, &checkpoint::load(&newest(&output)).unwrap());
        std::fs::remove_dir_all(&theirs.folder).unwrap();
    }
}

#[test]
fn the_reference_s_training_script_takes_the_folder_and_its_file_runs() {
    let Some(python) = paddle() else { return };
    let dir = tempfile::tempdir().unwrap();
    let theirs = write(&python, dir.path(), &["old", "NHWC", "4", "float32", "infer"], "224");
    let output = dir.path().join("qat");
    let small = format!(
        "--device cpu --nproc 1 --image-root synthetic --synthetic-images 8 --num-of-class {CLASSES} --batch-size 2 \
         --global-batch-size 2 --epochs 1 --max-steps 2 --warmup-epochs 0 --augmentation none \
         --qat-calibration-images 4 --show-config false --output-dir"
    );
    let script = repository().join("scripts/training/train_resnet50_AMP_QAT_10E.sh");
    let ran = Command::new(script)
        .arg(&theirs.folder)
        .args(small.split_whitespace())
        .arg(&output)
        .args(["--report-file", text(&dir.path().join("train.json"))])
        .env("OCTRAIN_BIN", binary("octrain"))
        .output()
        .unwrap();
    let told = octrain_tests::run::said(&ran);
    assert!(ran.status.success(), "{told}");
    assert!(told.contains("weights from") && told.contains("(Paddle)"), "{told}");
    let file = dir.path().join("int8.onnx");
    let line =
        ["export", "--from-checkpoint", text(&output), "--profile", "openvino", "--output", text(&file)];
    succeed(&line);
    let told = succeed(&[
        "infer",
        "--model",
        text(&file),
        "--engine",
        "openvino",
        "--batch-size",
        "2",
        "--benchmark",
    ]);
    println!("{told}");
    // Momentum is taken by who goes on from what `octrain import` makes.
    let (imported, further) = (dir.path().join("imported"), dir.path().join("further"));
    let names = dir.path().join("names.txt");
    let classes: Vec<String> = (0..CLASSES.parse().unwrap()).map(|i: usize| format!("class{i}")).collect();
    std::fs::write(&names, classes.join("\n")).unwrap();
    succeed(&["import", text(&theirs.folder), "--output-dir", text(&imported), "--classes", text(&names)]);
    let line = format!(
        "--model-arch-name ResNet50 --image-shape 4,224,224 --device cpu --image-root synthetic --synthetic-images 4 \
         --num-of-class {CLASSES} --batch-size 2 --epochs 1 --max-steps 1 --warmup-epochs 0 --augmentation none \
         --run-scope train_only --show-config false --last-epoch-of-checkpoint none"
    );
    let line: Vec<&str> = line.split_whitespace().collect();
    let start = ["train", "--from-checkpoint", text(&imported), "--output-dir", text(&further)];
    let told = succeed(&[&start[..], &line].concat());
    assert!(told.contains("resumed from") && told.contains("at epoch 0, step 0"), "{told}");
}
