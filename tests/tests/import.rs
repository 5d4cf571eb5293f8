//! `octrain import`: what another program trained becomes a checkpoint that every command takes.

use octrain::checkpoint;
use octrain_tests::run::{SMALL, newest, octrain, refuse, said, succeed};
use std::path::Path;
use tch::{Device, Kind, Tensor};

const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A ResNet20 of a few steps on the digits; its weights alone are a file of safetensors like anybody's.
fn trained(folder: &Path) -> std::path::PathBuf {
    let output = folder.join("run");
    let more = ["--epochs", "1", "--max-steps", "4", "--batch-size", "16", "--output-dir", text(&output)];
    succeed(&[&["train"], SMALL, &more[..]].concat());
    newest(&output)
}

#[test]
fn weights_by_name_become_a_checkpoint_that_is_evaluated_quantized_exported_and_trained_further() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = trained(dir.path());
    let weights = theirs.join("model.safetensors");
    let [imported, names] = ["imported", "names.txt"].map(|name| dir.path().join(name));
    std::fs::write(&names, (0..10).map(|i| format!("{i}\n")).collect::<String>()).unwrap();
    let flags = ["--image-shape", "3,32,32", "--resize-short", "32", "--classes", text(&names)];
    let line = [&["import", text(&weights), "--output-dir", text(&imported)], &flags[..]].concat();
    let told = succeed(&line);
    assert!(told.contains("(safetensors): ResNet20") && told.contains("10 classes"), "{told}");
    let ours = checkpoint::load(&newest(&imported)).unwrap();
    let before = checkpoint::load(&theirs).unwrap();
    assert_eq!((&ours.graph, &ours.model), (&before.graph, &before.model));
    assert_eq!(ours.manifest.preprocessing, before.manifest.preprocessing);
    assert_eq!(ours.manifest.class_names, before.manifest.class_names);
    // The same accuracy as the run's own, on data that is named, as the file says none.
    let accuracy = |folder: &Path| {
        let line =
            ["eval", "--from-checkpoint", text(folder), "--image-root", "digits", "--show-config", "false"];
        let told = succeed(&line);
        let at = told.find("val.top1 ").unwrap_or_else(|| panic!("{told}"));
        told[at..].split_whitespace().nth(1).unwrap().to_string()
    };
    assert_eq!(accuracy(&imported), accuracy(&theirs));
    let [quantized, further] = ["quantized", "further"].map(|name| dir.path().join(name));
    let few = ["--qat-calibration-images", "32"];
    let data = [&["--image-root", "digits", "--batch-size", "32", "--device", "cpu"], &few[..]].concat();
    let quantize = ["quantize", "--from-checkpoint", text(&imported), "--output-dir", text(&quantized)];
    succeed(&[&quantize[..], &data[..]].concat());
    let file = dir.path().join("x.onnx");
    succeed(&[
        "export",
        "--from-checkpoint",
        text(&quantized),
        "--profile",
        "openvino",
        "--output",
        text(&file),
    ]);
    let start =
        ["--from-pretrained-params", text(&imported), "--max-steps", "1", "--output-dir", text(&further)];
    succeed(&[&["train"], SMALL, &start[..]].concat());
    // A folder that holds a checkpoint is not overwritten unless somebody says so.
    let told = refuse(2, &line);
    assert!(told.contains("it holds checkpoints of") && told.contains("--overwrite"), "{told}");
    assert!(!told.contains("--resume"), "an import goes on with nothing: {told}");
    succeed(&[&line[..], &["--overwrite"]].concat());
}

#[test]
fn what_cannot_be_imported_is_one_message_with_all_that_is_the_matter() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = trained(dir.path());
    let weights = theirs.join("model.safetensors");
    let output = dir.path().join("out");
    let import = |from: &Path, more: &[&str]| {
        let told = octrain(&[&["import", text(from), "--output-dir", text(&output)], more].concat());
        assert_eq!(told.status.code(), Some(2), "{}", said(&told));
        assert!(!output.exists(), "nothing is written");
        said(&told)
    };
    let told = import(&weights, &["--model-arch-name", "ResNet18"]);
    for part in [
        "not those of ResNet18",
        "missing: ",
        "OCTRAIN_LOG=debug",
        "of another shape: ",
        "conv1.weight is [16, 3, 3, 3], not [64, 3, 7, 7]",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(import(&weights, &["--model-arch-name", "VGG"]).contains("unknown model `VGG`"));
    assert!(
        import(&weights, &["--image-shape", "4,32,32"])
            .contains("conv1.weight is [16, 3, 3, 3], not [16, 4, 3, 3]")
    );
    assert!(import(&weights, &["--image-shape", "3,32,32", "--crop-size", "24"]).contains("--image-shape"));
    assert!(import(&theirs, &[]).contains("a checkpoint of Octrain's already"));
    assert!(import(&dir.path().join("none"), &[]).contains("cannot read"));
    let names = dir.path().join("names.txt");
    std::fs::write(&names, "one\ntwo\n").unwrap();
    assert!(import(&weights, &["--classes", text(&names)]).contains("--classes names 2 classes"));
    std::fs::write(&names, "a\nb\n".repeat(5)).unwrap();
    assert!(import(&weights, &["--classes", text(&names)]).contains("a (lines 1, 3, 5, 7, 9)"));
    std::fs::write(&names, "GIF89a").unwrap();
    assert!(import(&names, &[]).contains("neither as safetensors nor"));
}

#[test]
fn files_that_are_damaged_not_finite_or_of_no_network_are_refused_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = trained(dir.path()).join("model.safetensors");
    let output = dir.path().join("out");
    let import = |from: &Path| {
        let told = octrain(&["import", text(from), "--output-dir", text(&output)]);
        assert_eq!(told.status.code(), Some(2), "{}", said(&told));
        assert!(!output.exists(), "nothing is written");
        said(&told)
    };
    let file = dir.path().join("w.safetensors");
    let whole = std::fs::read(&theirs).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let told = import(&file);
    assert!(told.contains("w.safetensors` is damaged: ") && told.contains("another copy"), "{told}");
    assert!(!told.contains("earlier checkpoint") && !told.contains("--last-epoch"), "{told}");
    // A network in which one of two tensors became infinite, the other NaN.
    let mut tensors = Tensor::read_safetensors(&theirs).unwrap();
    for (name, value) in [("conv1.weight", f64::INFINITY), ("fc.bias", f64::NAN)] {
        let (_, tensor) = tensors.iter_mut().find(|(own, _)| own == name).unwrap();
        let _ = tensor.flatten(0, -1).get(0).fill_(value);
    }
    Tensor::write_safetensors(&tensors, &file).unwrap();
    let told = import(&file);
    assert!(told.contains("conv1.weight (1 of 432), fc.bias (1 of 10)"), "{told}");
    // `--from-pretrained-params` takes them as little.
    let trained = dir.path().join("trained");
    let start = ["--from-pretrained-params", text(&file), "--output-dir", text(&trained)];
    assert!(refuse(2, &[&["train"], SMALL, &start[..]].concat()).contains("fc.bias (1 of 10)"));
    // Weights of something else altogether: no network is said to be close.
    let other: Vec<(String, Tensor)> =
        (0..30).map(|i| (format!("net.{i:02}.w"), Tensor::ones([2], FLOAT))).collect();
    Tensor::write_safetensors(&other, &file).unwrap();
    let told = import(&file);
    assert!(told.contains("not those of any of Octrain's networks"), "{told}");
    assert!(told.contains("30 tensors: net.00.w, ") && told.contains("net.09.w and 20 more"), "{told}");
    assert!(!told.contains("closest") && !told.contains("missing"), "{told}");
}

#[test]
fn weights_of_another_network_than_the_default_one_are_told_which_that_is() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = trained(dir.path());
    let output = dir.path().join("out");
    let line = format!(
        "train --device cpu --nproc 1 --image-root synthetic --synthetic-images 16 --num-of-class 10 --batch-size 8 \
         --image-shape 3,32,32 --crop-size 32 --resize-short 32 --max-steps 1 --output-dir {} --from-pretrained-params",
        text(&output)
    );
    let line: Vec<&str> = line.split_whitespace().collect();
    // A checkpoint says its network's name, a file of weights none.
    let named = "; that of this checkpoint: ResNet20)";
    for (from, end) in [(&theirs, named), (&theirs.join("model.safetensors"), ")")] {
        let told = refuse(2, &[&line[..], &[text(from)]].concat());
        assert!(told.contains("do not match the network, ResNet50: "), "{told}");
        let says = format!("--model-arch-name says which network is trained (not given: ResNet50{end}");
        assert!(told.contains(&says), "{told}");
    }
}
