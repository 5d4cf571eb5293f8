//! Classifiers in files, Octrain's own and those of others: `predict`, `infer` on any of them, and a file's metadata as
//! somebody else's code reads it.

use octrain::export::onnx::tensor_shape_proto::dimension::Value as Size;
use octrain::export::onnx::{ModelProto, StringStringEntryProto};
use octrain_tests::run::{octrain, refuse, report, said, succeed};
use octrain_tests::{images, python};
use prost::Message;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A small network that tells three classes of pictures by their colour, trained for two epochs on images of 40 pixels,
/// and its file. Its input has a fourth, empty channel.
fn trained() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let made = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let data = images::tree(&at("data"), 3, 24, 48);
        let (out, file) = (at("out"), at("fp32.onnx"));
        let network = ["--model-arch-name", "ResNet20", "--image-shape", "4,32,32", "--resize-short", "40"];
        let recipe = ["--batch-size", "8", "--epochs", "2", "--lr", "0.05", "--device", "cpu"];
        let place = ["--image-root", text(&data), "--output-dir", text(&out), "--show-config", "false"];
        succeed(&[&["train"], &network[..], &recipe, &place].concat());
        succeed(&["export", "--from-checkpoint", text(&out), "--profile", "fp32", "--output", text(&file)]);
        dir
    });
    made.path()
}

/// Flags that say of the file what its metadata does.
const TOLD: [&str; 6] =
    ["--resize-short", "40", "--normalize-mean", "0.485,0.456,0.406", "--normalize-std", "0.229,0.224,0.225"];

fn model(path: &Path) -> ModelProto {
    ModelProto::decode(&fs::read(path).unwrap()[..]).unwrap()
}

fn metadata(model: &ModelProto, key: &str) -> Value {
    let entry = model.metadata_props.iter().find(|e| e.key() == key).unwrap_or_else(|| panic!("{key}"));
    serde_json::from_str(entry.value()).unwrap()
}

/// The file as somebody else would have made it: without a word about itself.
fn anonymous(dir: &Path, change: impl FnOnce(&mut ModelProto)) -> PathBuf {
    let mut other = model(&trained().join("fp32.onnx"));
    other.metadata_props.clear();
    change(&mut other);
    let path = dir.join("other.onnx");
    fs::write(&path, other.encode_to_vec()).unwrap();
    path
}

/// What `predict --json` says, by image.
fn lines(told: &str) -> Vec<Value> {
    told.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

fn predicted(args: &[&str]) -> Vec<Value> {
    let output = octrain(&[&["predict", "--json"], args].concat());
    assert!(output.status.success(), "{}", said(&output));
    lines(&String::from_utf8(output.stdout).unwrap())
}

#[test]
fn images_of_files_and_folders_are_classified_by_name_in_both_engines() {
    let dir = trained();
    let (file, data) = (dir.join("fp32.onnx"), dir.join("data/val"));
    let (folder, single) = (data.join("b"), data.join("a/3.png"));
    let line = ["predict", "--model", text(&file), text(&single), text(&folder), "--top", "2"];
    let told = succeed(&line);
    assert!(told.contains(text(&single)) && told.contains(" %  a\n"), "{told}");
    let evaluated = report_of_infer(&file, &dir.join("data"), &[]);
    for engine in ["openvino", "onnxruntime"] {
        let all = predicted(&["--model", text(&file), "--engine", engine, text(&data)]);
        assert_eq!(all.len(), 72);
        let mut right = 0;
        for one in &all {
            let classes = one["predictions"].as_array().unwrap();
            assert_eq!(classes.len(), 3, "as many as there are: {one}");
            let sum: f64 = classes.iter().map(|c| c["probability"].as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{one}");
            let truth = Path::new(one["image"].as_str().unwrap()).parent().unwrap().file_name().unwrap();
            right += usize::from(classes[0]["class"].as_str() == truth.to_str());
        }
        // The same images, prepared by the same code.
        let top1 = 100.0 * right as f64 / 72.0;
        assert!((top1 - evaluated["infer.top1"].as_f64().unwrap()).abs() < 1e-9, "{engine}: {top1}");
        assert!(top1 > 60.0, "{engine}: {top1} of 100 is what guessing is near");
    }
}

fn report_of_infer(file: &Path, data: &Path, flags: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("infer.jsonl");
    let line = ["infer", "--model", text(file), "--image-root", text(data), "--report-file", text(&path)];
    succeed(&[&line[..], flags].concat());
    report(&path, "infer").pop().unwrap()
}

#[test]
fn what_cannot_be_read_is_named_and_the_others_are_classified() {
    let (file, dir) = (trained().join("fp32.onnx"), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name);
    let good = at("good.png");
    fs::copy(trained().join("data/val/a/1.png"), &good).unwrap();
    fs::write(at("torn.jpg"), &fs::read(trained().join("data/val/a/0.jpg")).unwrap()[..300]).unwrap();
    fs::create_dir(at("empty")).unwrap();
    let (torn, gone, empty) = (at("torn.jpg"), at("gone.png"), at("empty"));
    let names = [text(&torn), text(&gone), text(&empty), text(&good)];
    let line = [&["predict", "--model", text(&file), "--json"], &names[..]].concat();
    let output = octrain(&line);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["torn.jpg", "gone.png", "holds no JPEG or PNG", "3 of 4 images could not be read"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let all = lines(&String::from_utf8(output.stdout).unwrap());
    let of =
        |path: &Path| all.iter().find(|l| l["image"] == text(path)).unwrap_or_else(|| panic!("{path:?}"));
    assert_eq!(all.len(), 4);
    assert!(of(&torn)["error"].is_string() && of(&gone)["error"].is_string());
    assert_eq!(of(&good)["predictions"].as_array().unwrap().len(), 3);
    // Names that JSON has no word for are told as well as it can.
    let odd = dir.path().join(OsStr::from_bytes(b"odd\xff.png"));
    fs::copy(&good, &odd).unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"torn\xff.png")), "no image").unwrap();
    let output = octrain(&[&["predict", "--model", text(&file), "--json"], &[text(dir.path())][..]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let all = lines(&String::from_utf8(output.stdout).unwrap());
    let of = |name: &str| all.iter().find(|l| l["image"].as_str().unwrap().ends_with(name)).unwrap();
    assert_eq!(of("odd\u{fffd}.png")["predictions"], of("good.png")["predictions"]);
    assert!(of("torn\u{fffd}.png")["error"].is_string());
    refuse(2, &["predict", "--model", text(&file)]);
    refuse(2, &["predict", "--model", text(&file), "--top", "0", text(&good)]);
}

#[test]
fn files_of_others_are_classified_with_flags_and_say_which_they_need() {
    let dir = tempfile::tempdir().unwrap();
    let (own, data) = (trained().join("fp32.onnx"), trained().join("data"));
    let image = data.join("val/c/2.jpg");
    let other = anonymous(dir.path(), |_| {});
    let line = ["predict", "--model", text(&other), text(&image)];
    let told = refuse(2, &line);
    for flag in ["--resize-short", "--normalize-mean", "--normalize-std", "--normalize-scale"] {
        assert!(told.contains(flag), "{flag} in {told}");
    }
    let told = refuse(2, &[&line[..], &TOLD[..4]].concat());
    assert!(told.contains("give --normalize-std,") && !told.contains("--resize-short"), "{told}");
    let told = refuse(2, &[&line[..], &TOLD].concat());
    assert!(told.contains("3 classes") && told.contains("--classes FILE"), "{told}");
    let names = dir.path().join("names.txt");
    fs::write(&names, "Ahorn\nBirke\n").unwrap();
    let told = refuse(2, &[&line[..], &TOLD, &["--classes", text(&names)]].concat());
    assert!(told.contains("3 outputs") && told.contains("names 2 classes"), "{told}");
    fs::write(&names, "Ahorn\nBirke\nLinde und so\n").unwrap();
    let flags = [&TOLD[..], &["--classes", text(&names)]].concat();
    let mine = predicted(&[&["--model", text(&other), text(&image)], &flags[..]].concat());
    let theirs = predicted(&["--model", text(&own), text(&image)]);
    let first = |all: &[Value]| all[0]["predictions"][0].clone();
    assert_eq!(first(&mine)["probability"], first(&theirs)["probability"]);
    assert_eq!(first(&mine)["index"], first(&theirs)["index"]);
    assert!(["Ahorn", "Birke", "Linde und so"].contains(&first(&mine)["class"].as_str().unwrap()));
    // Settings that the loader cannot follow are named.
    let told = refuse(
        2,
        &[&line[..], &TOLD[..2], &["--normalize-mean", "0,0,0", "--normalize-std", "0,1,1"]].concat(),
    );
    assert!(told.contains("--normalize-std is 0"), "{told}");
    // A file that leaves the size of its images open, and takes two at a time.
    let open = anonymous(dir.path(), |m| {
        let graph = m.graph.as_mut().unwrap();
        let dim = &mut graph.input[0].tensor_mut().unwrap().shape.as_mut().unwrap().dim;
        dim[0].value = Some(Size::DimValue(2));
        dim[2].value = Some(Size::DimParam("height".into()));
    });
    let line = ["--model", text(&open), "--engine", "onnxruntime", text(&image)];
    let told = refuse(2, &[&["predict"], &line[..], &flags].concat());
    assert!(told.contains("[2,4,?,32]") && told.contains("--image-shape"), "{told}");
    let sized = predicted(&[&line[..], &flags, &["--image-shape", "4,32,32"]].concat());
    let difference =
        first(&sized)["probability"].as_f64().unwrap() - first(&theirs)["probability"].as_f64().unwrap();
    assert!(difference.abs() < 1e-4, "{difference}");
}

#[test]
fn the_accuracy_of_files_of_others_is_that_of_the_same_network() {
    let dir = tempfile::tempdir().unwrap();
    let (own, data) = (trained().join("fp32.onnx"), trained().join("data"));
    let other = anonymous(dir.path(), |_| {});
    let told = refuse(2, &["infer", "--model", text(&other), "--image-root", text(&data)]);
    assert!(told.contains("--resize-short, --normalize-mean, --normalize-std"), "{told}");
    let wanted = report_of_infer(&own, &data, &[]);
    for engine in ["openvino", "onnxruntime"] {
        let got = report_of_infer(&other, &data, &[&TOLD[..], &["--engine", engine]].concat());
        assert_eq!(got["infer.top1"], wanted["infer.top1"], "{engine}");
        assert_eq!((&got["precision"], &got["infer.images"]), (&Value::Null, &Value::from(72)));
    }
    // Other preprocessing is obeyed, and gives other results.
    let wrong = ["--resize-short", "32", "--normalize-mean", "9,-9,9", "--normalize-std", "1,1,1"];
    let got = report_of_infer(&other, &data, &wrong);
    assert_ne!(got["infer.top1"], wanted["infer.top1"]);
    // Data of another number of classes.
    let few = images::tree(&dir.path().join("few"), 2, 4, 48);
    let told =
        refuse(2, &[&["infer", "--model", text(&other), "--image-root", text(&few)], &TOLD[..]].concat());
    assert!(told.contains("3 outputs") && told.contains("2 classes") && told.contains("--classes"), "{told}");
    let names = dir.path().join("names.txt");
    fs::write(&names, "a\nb\nc\n").unwrap();
    let allowed = [&TOLD[..], &["--classes", text(&names), "--allow-missing-classes"]].concat();
    assert_eq!(report_of_infer(&other, &few, &allowed)["infer.images"], 8);
    // A file that takes one image at a time takes them so, and says so where it was told otherwise.
    let single = anonymous(dir.path(), |m| {
        let graph = m.graph.as_mut().unwrap();
        for value in [&mut graph.input[0], &mut graph.output[0]] {
            let of = value.tensor_mut().unwrap();
            of.shape.as_mut().unwrap().dim[0].value = Some(Size::DimValue(1));
        }
    });
    assert_eq!(report_of_infer(&single, &few, &allowed)["batch_size"], 1);
    let line = ["infer", "--model", text(&single), "--image-root", text(&few), "--batch-size", "4"];
    let told = refuse(2, &[&line[..], &allowed].concat());
    assert!(told.contains("--batch-size 1"), "{told}");
}

#[test]
fn a_file_that_wants_other_preprocessing_than_the_loader_s_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = trained().join("data/val/a/0.jpg");
    let told = metadata(&model(&trained().join("fp32.onnx")), "octrain.preprocessing");
    let other = anonymous(dir.path(), |m| {
        let mut bicubic = told.clone();
        bicubic["resize-interpolation"] = "bicubic".into();
        let entry = StringStringEntryProto::new("octrain.preprocessing", bicubic.to_string());
        m.metadata_props.push(entry);
    });
    let told = refuse(2, &["predict", "--model", text(&other), text(&image)]);
    assert!(told.contains("resize-interpolation") && told.contains("bicubic"), "{told}");
}

#[test]
fn metadata_is_enough_for_somebody_else_s_code() {
    let file = trained().join("fp32.onnx");
    let told = metadata(&model(&file), "octrain.preprocessing");
    for (key, want) in [
        ("color-order", Value::from("RGB")),
        ("channels", 4.into()),
        ("empty-channels", 1.into()),
        ("resize-short", 40.into()),
        ("resize-interpolation", "bilinear".into()),
        ("resize-antialias", true.into()),
        ("crop", "center".into()),
        ("crop-size", 32.into()),
        ("layout", "NCHW".into()),
        ("dtype", "float32".into()),
    ] {
        assert_eq!(told[key], want, "{key}");
    }
    assert_eq!(metadata(&model(&file), "octrain.classes"), serde_json::json!(["a", "b", "c"]));
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut args = vec![file.clone().into_os_string()];
    let mut shown = Vec::new();
    // Wide and high, smaller and larger than the network's images; raw pixels spare the other side a decoder.
    for (name, w, h) in [("wide", 131u32, 77u32), ("high", 30, 55), ("exact", 32, 32), ("large", 400, 303)] {
        let picture = image::RgbImage::from_fn(w, h, |x, y| {
            image::Rgb([(x * 255 / w) as u8, (y * 255 / h) as u8, ((x * 7 + y * 13) % 251) as u8])
        });
        let (png, raw) = (dir.path().join(format!("{name}.png")), dir.path().join(format!("{name}.rgb")));
        picture.save(&png).unwrap();
        fs::write(&raw, picture.as_raw()).unwrap();
        shown.push(png);
        args.extend([raw.into_os_string(), w.to_string().into(), h.to_string().into()]);
    }
    let args: Vec<&OsStr> = args.iter().map(|a| a.as_os_str()).collect();
    let theirs: Vec<Vec<f64>> = serde_json::from_str(&python.run("read_metadata.py", &args)).unwrap();
    let images: Vec<&str> = shown.iter().map(|p| text(p)).collect();
    let line = [&["--model", text(&file), "--engine", "onnxruntime"], &images[..]].concat();
    let ours = predicted(&line);
    assert_eq!((ours.len(), theirs.len()), (4, 4));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for class in ours["predictions"].as_array().unwrap() {
            let (p, i) = (class["probability"].as_f64().unwrap(), class["index"].as_u64().unwrap() as usize);
            assert!((p - theirs[i]).abs() < 0.01, "{ours}: {theirs:?}");
        }
    }
}
