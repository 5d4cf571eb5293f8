//! A checkpoint is enough: whatever evaluates, exports, verifies, analyzes, quantizes or predicts takes network,
//! preprocessing, classes and recipe from its folder, and not from the settings of its run or from a table of networks.

use octrain::checkpoint::{self, Snapshot, StartedFrom};
use octrain::config::RunConfig;
use octrain::data::Preprocessing;
use octrain_tests::images;
use octrain_tests::run::{newest, refuse, succeed};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// How the images of these tests are prepared; nothing of it is a default.
const PREPARED: &[&str] = &[
    "--image-shape",
    "4,32,32",
    "--resize-short",
    "40",
    "--normalize-scale",
    "0.01",
    "--normalize-mean",
    "1.1,1.2,1.3",
    "--normalize-std",
    "0.6,0.7,0.8",
];

fn data() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        images::tree(dir.path(), 3, 16, 48);
        dir
    })
    .path()
}

fn train(output: &Path, flags: &[&str]) -> PathBuf {
    let line = ["train", "--image-root", text(data()), "--model-arch-name", "ResNet20", "--device", "cpu"];
    let more = ["--batch-size", "8", "--lr", "0.01", "--show-config", "false", "--output-dir", text(output)];
    succeed(&[&line[..], PREPARED, &more, flags].concat());
    newest(output)
}

/// A checkpoint of a short training with quantization, whose recipe is none of the defaults.
fn quantized() -> &'static Path {
    static DIR: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, folder) = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let recipe = ["--qat", "--target", "onnxruntime", "--qat-skip", "fc", "--qat-weight-bits", "7"];
        let folder = train(dir.path(), &[&recipe[..], &["--epochs", "1", "--max-steps", "4"]].concat());
        (dir, folder)
    });
    folder
}

/// The checkpoint as a program of one's own would have saved it: of a network that no table names, without settings.
fn owned(folder: &Path, to: &Path) -> PathBuf {
    let Snapshot { mut manifest, mut graph, model, unaveraged, optimizer } =
        checkpoint::load(folder).unwrap();
    graph.name = "Somebodys".into();
    manifest.model = graph.name.clone();
    manifest.config = None;
    checkpoint::save(to, &Snapshot { manifest, graph, model, unaveraged, optimizer }).unwrap()
}

fn accuracy(told: &str) -> String {
    let at = told.find("val.top1").unwrap_or_else(|| panic!("no val.top1 in {told}"));
    told[at..].split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_folder_says_everything_about_its_network() {
    let manifest: Value =
        serde_json::from_slice(&fs::read(quantized().join("manifest.json")).unwrap()).unwrap();
    let p = &manifest["preprocessing"];
    for (key, want) in [
        ("color-order", Value::from("RGB")),
        ("channels", 4.into()),
        ("empty-channels", 1.into()),
        ("crop-size", 32.into()),
        ("resize-short", 40.into()),
        ("resize-interpolation", "bilinear".into()),
        ("rounding", "half away from zero".into()),
        ("layout", "NCHW".into()),
    ] {
        assert_eq!(p[key], want, "{key}");
    }
    let Snapshot { manifest, graph, .. } = checkpoint::load(quantized()).unwrap();
    let settings = manifest.config.as_ref().unwrap();
    assert_eq!(manifest.preprocessing, Preprocessing::of(&settings.data));
    assert_eq!(
        (manifest.preprocessing.normalize_mean[1], manifest.preprocessing.normalize_scale),
        (1.2, 0.01)
    );
    let recipe = manifest.strategy.qat.as_ref().unwrap();
    assert_eq!((recipe.weight_bits, recipe.skip.as_slice()), (7, &["fc".to_string()][..]));
    assert_eq!(manifest.class_names, ["a", "b", "c"]);
    assert_eq!(manifest.started_from, Some(StartedFrom::Seed(settings.run.seed)));
    assert!(manifest.run.is_some());
    // Before any pass.
    assert!(graph.quantizers().next().is_none());
    assert!(graph.nodes.iter().all(|n| n.op.layer().is_none_or(|layer| !layer.quantized())));
}

#[test]
fn a_network_that_no_table_names_is_evaluated_exported_verified_and_analyzed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = owned(quantized(), &dir.path().join("own"));
    let (from, root) = (["--from-checkpoint", text(&folder)], ["--image-root", text(data())]);
    let quiet = ["--show-config", "false"];
    let trained = succeed(&[&["eval", "--from-checkpoint", text(quantized())], &root[..], &quiet].concat());
    let told = succeed(&[&["eval"], &from[..], &root, &quiet].concat());
    assert_eq!(accuracy(&told), accuracy(&trained));
    let told =
        succeed(&[&["eval"], &from[..], &root, &quiet, &["--nproc", "2", "--batch-size", "4"]].concat());
    assert_eq!(accuracy(&told), accuracy(&trained));
    for profile in ["onnxruntime", "fp32"] {
        let [file, by_name] = ["own", "named"].map(|name| dir.path().join(format!("{name}-{profile}.onnx")));
        let export = |from: &Path, to: &Path| {
            succeed(&["export", "--from-checkpoint", text(from), "--profile", profile, "--output", text(to)])
        };
        export(&folder, &file);
        export(quantized(), &by_name);
        let engine = ["--engine", if profile == "fp32" { "openvino" } else { profile }];
        let model = ["--model", text(&file)];
        let infer = |file: &Path| {
            let report = file.with_extension("jsonl");
            let line = ["infer", "--model", text(file), "--report-file", text(&report)];
            succeed(&[&line[..], &engine, &root].concat());
            let told: Value = serde_json::from_str(fs::read_to_string(&report).unwrap().trim()).unwrap();
            told["infer.top1"].clone()
        };
        assert_eq!(infer(&file), infer(&by_name), "{profile}");
        let limits = ["--max-disagreement", "100", "--min-lsb-within-1", "0"];
        succeed(&[&["verify"], &from[..], &model, &engine, &root, &limits].concat());
        succeed(&["predict", "--model", text(&file), text(&data().join("val/a/0.jpg"))]);
    }
    let told = succeed(&[&["analyze"], &from[..], &root, &["--max-images", "8"]].concat());
    assert!(told.contains("onnxruntime") && told.contains("layer3"), "{told}");
    // Without settings nobody says where the data is, nor how it would go on.
    for command in ["eval", "analyze"] {
        let told = refuse(2, &[&[command], &from[..]].concat());
        assert!(told.contains("give --image-root") && told.contains(text(&folder)), "{told}");
    }
    let told = refuse(2, &["train", "--resume", text(&folder)]);
    assert!(
        told.contains("was not saved by `octrain train`") && told.contains("--from-pretrained-params"),
        "{told}"
    );
    // Its weights are a start like any other, and its network is that of the name; for other classes it is none.
    let other = images::tree(&dir.path().join("other"), 2, 8, 48);
    let start = ["train", "--from-pretrained-params", text(&folder), "--model-arch-name", "Somebodys"];
    let flags = ["--batch-size", "8", "--epochs", "1", "--max-steps", "1", "--device", "cpu"];
    let output = dir.path().join("further");
    let on = ["--lr", "0.001", "--output-dir", text(&output), "--allow-mismatch"];
    succeed(&[&start[..], &flags, PREPARED, &on, &root].concat());
    let further = checkpoint::load(&newest(&output)).unwrap();
    assert_eq!(further.graph, checkpoint::load(&folder).unwrap().graph);
    assert!(matches!(further.manifest.started_from, Some(StartedFrom::Checkpoint { .. })));
    let told = refuse(2, &[&start[..], &flags, PREPARED, &on, &["--image-root", text(&other)]].concat());
    assert!(told.contains("of 3 classes") && told.contains("of 2 classes"), "{told}");
}

#[test]
fn a_network_that_no_table_names_is_quantized_after_training() {
    let dir = tempfile::tempdir().unwrap();
    let folder = train(&dir.path().join("float"), &["--epochs", "1", "--max-steps", "3"]);
    let folder = owned(&folder, &dir.path().join("own"));
    let output = dir.path().join("int8");
    let line = ["quantize", "--from-checkpoint", text(&folder), "--output-dir", text(&output)];
    let told = refuse(2, &line);
    assert!(told.contains("give --image-root"), "{told}");
    let flags = ["--image-root", text(data()), "--qat-calibration-images", "16", "--batch-size", "8"];
    succeed(&[&line[..], &flags, &["--device", "cpu", "--show-config", "false"]].concat());
    let [float, int8] = [&folder, &newest(&output)].map(|folder| checkpoint::load(folder).unwrap());
    assert_eq!((&int8.graph, &int8.manifest.preprocessing), (&float.graph, &float.manifest.preprocessing));
    assert!(int8.manifest.qat.is_some() && int8.model.keys().any(|name| name.starts_with("quant.")));
    let file = dir.path().join("x.onnx");
    let line = ["export", "--profile", "openvino", "--output", text(&file)];
    succeed(&[&line[..], &["--from-checkpoint", text(&output)]].concat());
}

#[test]
fn settings_of_another_version_stand_in_the_way_of_going_on_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(quantized().file_name().unwrap());
    fs::create_dir(&folder).unwrap();
    for file in fs::read_dir(quantized()).unwrap().flatten() {
        fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    let manifest = folder.join("manifest.json");
    let mut changed: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    changed["config"]["lr"] = "adaptive".into();
    fs::write(&manifest, changed.to_string()).unwrap();
    let from = ["--from-checkpoint", text(&folder)];
    let file = dir.path().join("x.onnx");
    let told =
        succeed(&[&["export"], &from[..], &["--profile", "onnxruntime", "--output", text(&file)]].concat());
    assert!(told.contains("settings of its run cannot be read") && told.contains("adaptive"), "{told}");
    let root = ["--image-root", text(data()), "--show-config", "false"];
    let trained = succeed(&[&["eval", "--from-checkpoint", text(quantized())], &root[..]].concat());
    let told = succeed(&[&["eval"], &from[..], &root].concat());
    assert_eq!(accuracy(&told), accuracy(&trained));
    let told = refuse(2, &["train", "--resume", text(&folder)]);
    assert!(told.contains("adaptive") && told.contains("use octrain"), "{told}");
}

#[test]
fn exported_files_carry_the_checkpoints_preprocessing_and_classes_whatever_the_settings_say() {
    let dir = tempfile::tempdir().unwrap();
    // A program of one's own may prepare its images as it likes; the settings of no run say so.
    let mut own = checkpoint::load(quantized()).unwrap();
    own.manifest.config = None;
    own.manifest.preprocessing.resize_short = 57;
    own.manifest.class_names = ["x", "y", "z"].map(String::from).to_vec();
    let folder = checkpoint::save(&dir.path().join("own"), &own).unwrap();
    let file = dir.path().join("x.onnx");
    succeed(&["export", "--from-checkpoint", text(&folder), "--profile", "fp32", "--output", text(&file)]);
    let info = octrain::engine::ModelInfo::read(&file, octrain::engine::Told::default()).unwrap();
    assert_eq!(info.preprocessing, Some(own.manifest.preprocessing.clone()));
    assert_eq!(info.class_names.as_ref(), Some(&own.manifest.class_names));
    // Settings that contradict the checkpoint are not chosen between.
    own.manifest.config = Some(RunConfig::default());
    let e = checkpoint::save(&dir.path().join("two"), &own).unwrap_err().to_string();
    assert!(e.contains("contradicts itself") && e.contains("`config`"), "{e}");
}
