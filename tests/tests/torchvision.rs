//! `model.safetensors` under torchvision's names, shown by torchvision itself: its networks load an Octrain checkpoint
//! strictly and compute the same logits, and Octrain takes the state dict of a network that torchvision has initialised.
//! The scripts run in the Python environment that `scripts/setup.sh --test` makes.

use octrain::checkpoint::{self, Snapshot, State};
use octrain::exec::{self, Evaluator, Mode, Weights};
use octrain::graph::Graph;
use octrain::graph::ParamKind::{ConvWeight, LinearWeight};
use octrain::import::{self, Wanted};
use octrain::passes;
use octrain::strategy::{Purpose, Strategy};
use octrain_tests::random::Draws;
use octrain_tests::run::{newest, succeed};
use octrain_tests::{Python, python, run};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;
use tch::{Device, Tensor};

const CLASSES: i64 = 7;
const SIDE: i64 = 64;
const IMAGES: i64 = 4;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Flags of a few steps of a network on synthetic images.
fn flags(model: &str) -> Vec<String> {
    let line = format!(
        "--image-root synthetic --synthetic-images 16 --num-of-class {CLASSES} --model-arch-name {model} \
         --image-shape 3,{SIDE},{SIDE} --crop-size {SIDE} --resize-short {SIDE} --batch-size 4 --device cpu --lr 0.01 \
         --warmup-epochs 0 --augmentation none --run-scope train_only --show-config false"
    );
    line.split_whitespace().map(str::to_string).collect()
}

fn train(model: &str, more: &[&str]) {
    let flags = flags(model);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    succeed(&[&["train"], &flags[..], more].concat());
}

/// What a checkpoint's network makes of images in floating point.
fn logits(checkpoint: &Snapshot, images: &Tensor) -> Tensor {
    let graph = passes::run(checkpoint.graph.clone(), &Strategy::default(), Purpose::Eval).unwrap();
    let mode = Mode::evaluation(false);
    Evaluator::of_state(graph, &checkpoint.model, mode, Device::Cpu).unwrap().logits(images).unwrap()
}

/// Images, and the file that holds them.
fn images(folder: &Path) -> (Tensor, std::path::PathBuf) {
    let images = Draws::new(9).normal(&[IMAGES, 3, SIDE, SIDE]);
    let path = folder.join("images.safetensors");
    Tensor::write_safetensors(&[("images", &images)], &path).unwrap();
    (images, path)
}

fn ask(python: &Python, words: &[&str]) -> Value {
    let words: Vec<&OsStr> = words.iter().map(|word| OsStr::new(*word)).collect();
    serde_json::from_str(&python.run("torchvision_models.py", &words)).unwrap()
}

/// Fails where logits are further apart than 1e-4, of the largest where that is above 1.
fn assert_same(ours: &Tensor, file: &Path, model: &str) {
    let theirs = Tensor::read_safetensors(file).unwrap().remove(0).1;
    assert_eq!(ours.size(), [IMAGES, CLASSES]);
    assert_eq!(ours.size(), theirs.size());
    let largest = theirs.abs().max().double_value(&[]);
    let apart = (ours - &theirs).abs().max().double_value(&[]);
    let images = (theirs.get(0) - theirs.get(1)).abs().max().double_value(&[]);
    println!("{model}: logits up to {largest:.3}, apart by {apart:.2e}; two images differ by {images:.3}");
    assert!(apart <= 1e-4 * largest.max(1.0), "{model}: logits are {apart:.2e} apart, up to {largest:.3}");
    assert!(images > 100.0 * apart, "{model}: the images do not tell");
}

/// BatchNorms of torchvision's counters after Octrain's file was loaded: it has none, and torchvision, which only counts
/// with them, keeps those of its new network.
fn assert_counters_are_new(told: &Value, batch_norms: usize) {
    let counters = told["counters"].as_object().unwrap();
    assert_eq!(counters.len(), batch_norms);
    assert!(counters.values().all(|n| n == 0), "{told}");
}

/// Fails where a weight that Octrain draws is larger or smaller in the mean square than torchvision's in `theirs`, by more than
/// the chance of both.
fn assert_begins_alike(graph: &Graph, theirs: &State) {
    let mut ours = Weights::zeros(graph, Device::Cpu).unwrap();
    exec::initialise(&mut ours, 4, false).unwrap();
    let ours = ours.to_state().unwrap();
    let weights = graph.params.iter().filter(|p| matches!(p.kind, ConvWeight | LinearWeight));
    for name in weights.map(|p| &p.name) {
        let square = |state: &State| {
            let data = &state[name].data;
            data.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / data.len() as f64
        };
        // The deviation of a mean of n squares of a normal variable is sqrt(2 / n) of it; of the quotient of two, twice their root.
        let chance = 2.0 / (ours[name].data.len() as f64).sqrt();
        let ratio = square(&ours) / square(theirs);
        assert!(ratio.ln().abs() < 6.0 * chance, "{}, {name}: {ratio:.3} of torchvision's", graph.name);
    }
}

#[test]
fn torchvision_loads_checkpoints_strictly_and_computes_the_same() {
    let Some(python) = python() else { return };
    for (model, name, tensors, batch_norms) in
        [("ResNet18", "resnet18", 102, 20), ("ResNet50", "resnet50", 267, 53)]
    {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("run");
        train(model, &["--epochs", "1", "--max-steps", "3", "--output-dir", text(&output)]);
        let folder = newest(&output);
        let (images, given) = images(dir.path());
        let theirs = dir.path().join("logits.safetensors");
        let (weights, classes) = (folder.join("model.safetensors"), CLASSES.to_string());
        let told = ask(&python, &["load", name, &classes, text(&weights), text(&given), text(&theirs)]);
        assert_eq!(told["tensors"], tensors);
        assert_counters_are_new(&told, batch_norms);
        assert_same(&logits(&checkpoint::load(&folder).unwrap(), &images), &theirs, model);
    }
}

#[test]
fn octrain_takes_torchvisions_state_dicts_and_gives_them_back_with_ranges_beside_them() {
    let Some(python) = python() else { return };
    for (model, name, batch_norms) in [("ResNet18", "resnet18", 20), ("ResNet50", "resnet50", 53)] {
        let dir = tempfile::tempdir().unwrap();
        let (images, given) = images(dir.path());
        let [weights, theirs, back] =
            ["weights", "logits", "back"].map(|file| dir.path().join(format!("{file}.safetensors")));
        let classes = CLASSES.to_string();
        let told = ask(&python, &["make", name, &classes, "5", text(&given), text(&theirs), text(&weights)]);
        assert_eq!(told["counters"].as_object().unwrap().len(), batch_norms);
        // Calibrated and not trained, so that the weights of the checkpoint are still torchvision's.
        let output = dir.path().join("run");
        let flags =
            ["--qat", "--epochs", "0", "--qat-calibration-images", "8", "--output-dir", text(&output)];
        train(model, &[&flags[..], &["--from-pretrained-params", text(&weights)]].concat());
        let folder = newest(&output);
        let checkpoint = checkpoint::load(&folder).unwrap();
        assert_same(&logits(&checkpoint, &images), &theirs, model);
        let (ours, wanted) = (folder.join("model.safetensors"), run::tensors(&weights));
        let ranges = run::tensors(&ours).into_iter().filter(|(name, bits)| match wanted.get(name) {
            Some(wanted) => {
                assert_eq!(wanted, bits, "{name}");
                false
            }
            None => true,
        });
        let names: Vec<String> = ranges.map(|(name, _)| name).collect();
        assert!(!names.is_empty() && names.iter().all(|n| n.starts_with("quant.")), "{names:?}");
        let told = ask(&python, &["load", name, &classes, text(&ours), text(&given), text(&back)]);
        assert_counters_are_new(&told, batch_norms);
        assert_same(&logits(&checkpoint, &images), &back, model);
    }
}

/// A state dict with running statistics of its own, so that a BatchNorm's epsilon and every number of it tell.
#[test]
fn networks_of_torchvision_compute_the_same_from_their_own_weights() {
    let Some(python) = python() else { return };
    for (model, name) in [
        ("MobileNetV2", "mobilenet_v2"),
        ("MobileNetV3-Small", "mobilenet_v3_small"),
        ("MobileNetV3-Large", "mobilenet_v3_large"),
        ("EfficientNet-B0", "efficientnet_b0"),
        ("RegNetX-400MF", "regnet_x_400mf"),
        ("RegNetY-400MF", "regnet_y_400mf"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (images, given) = images(dir.path());
        let (weights, theirs) = (dir.path().join("weights.pth"), dir.path().join("logits.safetensors"));
        ask(&python, &["moved", name, "7", "8", text(&given), text(&theirs), text(&weights)]);
        let side = SIDE as usize;
        let wanted = Wanted { network: Some(model.into()), image_shape: Some([3, side, side]) };
        let network = import::read(&weights, &wanted).unwrap().network;
        assert_eq!(network.classes(), CLASSES as usize);
        assert_begins_alike(&network.graph, &network.model);
        let mode = Mode::evaluation(false);
        let evaluator = Evaluator::of_state(network.graph, &network.model, mode, Device::Cpu).unwrap();
        assert_same(&evaluator.logits(&images).unwrap(), &theirs, model);
    }
}

#[test]
fn octrain_takes_what_torch_save_writes_as_it_takes_safetensors() {
    let Some(python) = python() else { return };
    for (model, name, how) in [("ResNet18", "resnet18", "make"), ("ResNet50", "resnet50", "make-legacy")] {
        let dir = tempfile::tempdir().unwrap();
        let (images, given) = images(dir.path());
        let (weights, theirs) = (dir.path().join("weights.pth"), dir.path().join("logits.safetensors"));
        let classes = CLASSES.to_string();
        ask(&python, &[how, name, &classes, "6", text(&given), text(&theirs), text(&weights)]);
        let output = dir.path().join("run");
        let flags =
            ["--qat", "--epochs", "0", "--qat-calibration-images", "8", "--output-dir", text(&output)];
        train(model, &[&flags[..], &["--from-pretrained-params", text(&weights)]].concat());
        assert_same(&logits(&checkpoint::load(&newest(&output)).unwrap(), &images), &theirs, model);
        // As a checkpoint of its own; which network it is, its parameters tell.
        let (imported, side) = (dir.path().join("imported"), format!("3,{SIDE},{SIDE}"));
        let told =
            succeed(&["import", text(&weights), "--output-dir", text(&imported), "--image-shape", &side]);
        assert!(told.contains(&format!("(PyTorch): {model}")), "{told}");
        assert_same(&logits(&checkpoint::load(&newest(&imported)).unwrap(), &images), &theirs, model);
    }
}
