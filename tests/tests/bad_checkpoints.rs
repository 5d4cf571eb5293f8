//! Graphs, weights and manifests of a checkpoint that cannot be: each is refused with what is wrong, where, and what to do.

use octrain_tests::images;
use octrain_tests::run::{SMALL, newest, refuse, succeed};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A run of one step with quantization.
fn checkpoint() -> &'static Path {
    static DIR: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, folder) = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--epochs", "1", "--max-steps", "1", "--batch-size", "16", "--run-scope", "train_only"];
        let qat = ["--qat", "--qat-calibration-images", "32", "--output-dir", text(dir.path())];
        succeed(&[&["train"], SMALL, &flags, &qat].concat());
        let folder = newest(dir.path());
        (dir, folder)
    });
    folder
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The checkpoint with a file of its folder changed, as a writer would have left it: sizes and hashes fit.
fn changed(file: &str, change: impl FnOnce(&mut Value)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(checkpoint().file_name().unwrap());
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(checkpoint()).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let mut value = read(&folder.join(file));
    change(&mut value);
    fs::write(folder.join(file), value.to_string()).unwrap();
    let mut manifest = read(&folder.join("manifest.json"));
    for entry in manifest["files"].as_array_mut().unwrap() {
        let bytes = fs::read(folder.join(entry["name"].as_str().unwrap())).unwrap();
        entry["bytes"] = bytes.len().into();
        let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        entry["sha256"] = digest.into();
    }
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    (dir, folder)
}

/// What export says of the checkpoint with this file changed; it must refuse it, and write nothing.
fn refused(file: &str, change: impl FnOnce(&mut Value)) -> String {
    let (dir, folder) = changed(file, change);
    let output = dir.path().join("x.onnx");
    let line = ["export", "--from-checkpoint", text(&folder), "--profile", "fp32", "--output", text(&output)];
    let told = refuse(2, &line);
    assert!(told.contains(text(&folder)), "where: {told}");
    assert!(!output.exists() && !told.contains("panicked"), "{told}");
    told
}

fn node<'a>(graph: &'a mut Value, name: &str) -> &'a mut Value {
    let nodes = graph["nodes"].as_array_mut().unwrap();
    nodes.iter_mut().find(|n| n["name"] == name).unwrap()
}

fn param<'a>(graph: &'a mut Value, name: &str) -> &'a mut Value {
    let params = graph["params"].as_array_mut().unwrap();
    params.iter_mut().find(|p| p["name"] == name).unwrap()
}

#[test]
fn a_checkpoint_that_was_only_rewritten_is_taken() {
    let (dir, folder) = changed("graph.json", |_| ());
    let output = dir.path().join("x.onnx");
    succeed(&["export", "--from-checkpoint", text(&folder), "--profile", "fp32", "--output", text(&output)]);
}

#[test]
fn graphs_that_cannot_be_are_refused_with_the_node() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &[&str]); 11] = [
        ("a cycle", |g| node(g, "layer1.0.conv1")["inputs"] = json!([40]), &["`layer1.0.conv1`", "no cycle"]),
        ("itself", |g| node(g, "conv1")["inputs"] = json!([1]), &["`conv1`", "reads `conv1`", "no cycle"]),
        (
            "beyond the end",
            |g| node(g, "conv1")["inputs"] = json!([9999]),
            &["value 9999, which there is not"],
        ),
        ("no such output", |g| g["output"] = 9999.into(), &["its output is node 9999"]),
        (
            "an operator of a later version",
            |g| node(g, "avgpool")["op"] = "Softsign".into(),
            &["unknown variant `Softsign`", "use octrain 0."],
        ),
        (
            "an operator of somebody's",
            |g| {
                node(g, "bn1.relu")["op"] =
                    json!({"Custom": {"kind": "Swish", "attributes": {"slope": 1.0}}});
            },
            &["operator `Swish`", "register"],
        ),
        ("two of a name", |g| node(g, "bn1")["name"] = "conv1".into(), &["two nodes are named `conv1`"]),
        (
            "two parameters of a name",
            |g| {
                let twin = param(g, "fc.bias").clone();
                g["params"].as_array_mut().unwrap().push(twin);
            },
            &["two parameters are named `fc.bias`"],
        ),
        (
            "a shape that does not fit",
            |g| param(g, "layer2.0.conv1.weight")["shape"] = json!([32, 17, 3, 3]),
            &["`layer2.0.conv1` (Conv)", "16 input channels do not fit"],
        ),
        (
            "a stride of nothing",
            |g| node(g, "conv1")["op"]["Conv"]["stride"] = json!([0, 1]),
            &["`conv1` (Conv)", "window 3"],
        ),
        (
            "a type that is not made",
            |g| node(g, "bn1")["ty"]["shape"] = json!([16, 31, 32]),
            &["`bn1` (BatchNorm)", "is typed"],
        ),
    ];
    for (what, change, wants) in cases {
        let told = refused("graph.json", change);
        for want in [&["graph.json"], wants].concat() {
            assert!(told.contains(want), "{what}: {want} in {told}");
        }
    }
}

#[test]
fn weights_that_are_missing_left_over_or_of_another_shape_are_named() {
    // Whole, and still not the one of these weights: wider, without a bias, with a parameter more.
    let wide = |g: &mut Value| {
        for name in ["layer3.2.conv1.weight", "layer3.2.conv2.weight"] {
            let axis = usize::from(name.contains("conv2"));
            param(g, name)["shape"][axis] = 65.into();
        }
        for name in ["weight", "bias", "running_mean", "running_var"] {
            param(g, &format!("layer3.2.bn1.{name}"))["shape"] = json!([65]);
        }
        for name in ["layer3.2.conv1", "layer3.2.bn1", "layer3.2.bn1.relu"] {
            node(g, name)["ty"]["shape"][0] = 65.into();
        }
    };
    let told = refused("graph.json", wide);
    for want in ["model.safetensors", "layer3.2.conv1.weight is [64, 64, 3, 3], not [65, 64, 3, 3]"] {
        assert!(told.contains(want), "{want} in {told}");
    }
    let unbiased = |g: &mut Value| {
        node(g, "fc")["op"]["Linear"]["layer"]["bias"] = Value::Null;
        g["params"].as_array_mut().unwrap().retain(|p| p["name"] != "fc.bias");
    };
    let told = refused("graph.json", unbiased);
    assert!(told.contains("1 left over: fc.bias") && told.contains("take another"), "{told}");
    let biased = |g: &mut Value| {
        node(g, "conv1")["op"]["Conv"]["layer"]["bias"] = "conv1.bias".into();
        let bias = json!({"name": "conv1.bias", "shape": [16], "kind": "bias"});
        g["params"].as_array_mut().unwrap().push(bias);
    };
    let told = refused("graph.json", biased);
    assert!(told.contains("1 missing: conv1.bias"), "{told}");
}

#[test]
fn a_graph_that_is_not_the_manifests_is_refused() {
    let told = refused("graph.json", |g| g["name"] = "ResNet32".into());
    assert!(told.contains("that of ResNet32") && told.contains("names ResNet20"), "{told}");
    let told = refused("manifest.json", |m| drop(m["class-names"].as_array_mut().unwrap().pop()));
    assert!(told.contains("makes [10]") && told.contains("9 classes"), "{told}");
}

#[test]
fn a_graph_that_is_cut_short_is_damaged_and_one_that_is_gone_is_missed() {
    for gone in [false, true] {
        let (dir, folder) = changed("graph.json", |_| ());
        let graph = folder.join("graph.json");
        match gone {
            true => fs::remove_file(&graph).unwrap(),
            false => fs::write(&graph, &fs::read(&graph).unwrap()[..100]).unwrap(),
        }
        let output = dir.path().join("x.onnx");
        let line = ["--from-checkpoint", text(&folder)];
        for command in [&["export", "--profile", "fp32", "--output", text(&output)][..], &["eval"]] {
            let told = refuse(1, &[command, &line].concat());
            assert!(told.contains("graph.json") && !output.exists(), "{told}");
        }
        // Who goes on with the run is told of it, and what to do.
        let told = refuse(1, &["train", "--resume", text(dir.path()), "--show-config", "false"]);
        assert!(told.contains("graph.json") && told.contains("start anew"), "{told}");
    }
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused_where_it_is_read() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 6] = [
        (|m| m["strategy"]["qat"] = Value::Null, "no recipe that led to it (`strategy.qat`)"),
        (|m| m["qat"] = Value::Null, "no state of it (`qat`)"),
        (
            |m| m["passes"] = json!(["drop-dead", "memory-layout"]),
            "`quantize-weights`, which follows from it",
        ),
        (
            |m| {
                (m["strategy"]["qat"], m["qat"], m["config"]["qat"]) =
                    (Value::Null, Value::Null, false.into());
            },
            "lists the pass `quantize-weights`, which its strategy does not ask for",
        ),
        (|m| m["qat"]["target"] = "tensorrt".into(), "`qat.target` is tensorrt"),
        (|m| m["strategy"]["qat"]["skip"] = json!(["fc"]), "`strategy` and `config`"),
    ];
    for (change, want) in cases {
        let told = refused("manifest.json", change);
        for want in ["manifest.json", "contradicts itself", want] {
            assert!(told.contains(want), "{want} in {told}");
        }
    }
    let (_dir, folder) = changed("manifest.json", |m| m["qat"] = Value::Null);
    for command in [&["eval"][..], &["analyze"]] {
        let told = refuse(2, &[command, &["--from-checkpoint", text(&folder)]].concat());
        assert!(told.contains("contradicts itself"), "{told}");
    }
    let told = refuse(2, &["train", "--resume", text(&folder)]);
    assert!(told.contains("contradicts itself"), "{told}");
}

#[test]
fn classes_that_differ_from_the_data_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let from = ["--from-checkpoint", text(checkpoint())];
    let few = images::tree(&dir.path().join("few"), 3, 8, 32);
    for command in ["eval", "analyze"] {
        let told = refuse(2, &[&[command], &from[..], &["--image-root", text(&few)]].concat());
        assert!(told.contains("classes"), "{told}");
    }
    let (_other, folder) = changed("manifest.json", |m| m["class-names"][4] = "four".into());
    let told = refuse(2, &["eval", "--from-checkpoint", text(&folder), "--show-config", "false"]);
    assert!(told.contains("`four`") && told.contains("`4`") && told.contains("--image-root"), "{told}");
}
