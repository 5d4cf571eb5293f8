//! Networks of ONNX files against ONNX's own test cases and ONNX Runtime. The scripts run in the Python environment that
//! `scripts/setup.sh --test` makes.

use octrain::checkpoint::{self, Snapshot};
use octrain::engine::{EngineKind, Port, load_network};
use octrain::exec::{Evaluator, Mode};
use octrain::export::{FloatType, Options, Profile, emit};
use octrain::import::onnx::{Task, network};
use octrain::passes;
use octrain::strategy::{Purpose, Strategy};
use octrain_formats::onnx::File;
use octrain_formats::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use octrain_tests::policy::repository;
use octrain_tests::random::Draws;
use octrain_tests::run::{SMALL, newest, octrain, refuse, said, succeed};
use octrain_tests::{python, verified_as_far_as_sums_are_exact};
use prost::Message;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use tch::{Device, Tensor};

/// What became of a file: how far apart results are, of the largest; or why it was refused.
enum Fate {
    Apart(f64),
    Refused(String),
}

/// Runs the network of NAME.onnx on the input in NAME.safetensors, and holds it against the output there.
fn fate(folder: &Path, name: &str, task: Task) -> Fate {
    let bytes = std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
    let model = File::decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}")).read(&BTreeMap::new());
    let made = match network(&model, name, None, task) {
        Ok(made) => made,
        Err(why) => return Fate::Refused(why.join("; ")),
    };
    let tensors = Tensor::read_safetensors(folder.join(format!("{name}.safetensors"))).unwrap();
    let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
    let graph = passes::run(made.graph, &Strategy::default(), Purpose::Eval)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let evaluator = Evaluator::of_state(graph, &made.state, Mode::evaluation(false), Device::Cpu);
    let ours = evaluator.unwrap_or_else(|e| panic!("{name}: {e}")).logits(&tensors["input"]);
    let mut ours = ours.unwrap_or_else(|e| panic!("{name}: {e}"));
    let theirs = &tensors["output"];
    if made.notes.iter().any(|note| note.contains("Softmax")) {
        ours = ours.softmax(-1, None);
    }
    assert_eq!(ours.numel(), theirs.numel(), "{name}: {:?} and {:?}", ours.size(), theirs.size());
    let largest = theirs.abs().max().double_value(&[]);
    let apart = (ours.reshape(theirs.size().as_slice()) - theirs).abs().max().double_value(&[]);
    assert!(largest.is_finite() && apart.is_finite(), "{name}: {largest}, {apart}");
    if task == Task::Classifier && theirs.size()[0] > 1 {
        let images = [0, 1].map(|i| theirs.get(i));
        let differ = (&images[0] - &images[1]).abs().max().double_value(&[]);
        assert!(
            differ > 10.0 * apart,
            "{name}: two images differ by {differ:.1e}, the results by {apart:.1e}"
        );
    }
    Fate::Apart(apart / largest.max(f64::MIN_POSITIVE))
}

fn ask<T: serde::de::DeserializeOwned>(words: &[&str]) -> Option<T> {
    let words: Vec<&OsStr> = words.iter().map(|word| OsStr::new(*word)).collect();
    Some(serde_json::from_str(&python()?.run("onnx_networks.py", &words)).unwrap())
}

#[test]
fn onnx_s_own_cases_of_the_operators_that_are_taken_are_computed_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let Some(cases) = ask::<BTreeMap<String, String>>(&["cases", folder.to_str().unwrap()]) else { return };
    let mut passed: BTreeMap<&str, usize> = BTreeMap::new();
    let mut refused: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, op) in &cases {
        match fate(folder, name, Task::Function) {
            Fate::Apart(apart) if apart <= 1e-5 => *passed.entry(op).or_default() += 1,
            Fate::Apart(apart) => wrong.push(format!("{name}: {apart:.2e} apart")),
            Fate::Refused(why) => {
                let why = why.split_once("): ").map_or(why.as_str(), |(_, why)| why);
                refused.entry(format!("{op}: {why}")).or_default().push(name);
            }
        }
    }
    println!("{} of {} cases are computed: {passed:?}", passed.values().sum::<usize>(), cases.len());
    for (why, names) in &refused {
        println!("refused: {why}: {}", names.join(" "));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Of every operator some case is computed, but for those whose only cases are of other forms.
    let other = ["Cast", "Concat", "Expand", "HardSigmoid", "Max", "Min", "Pad", "Sum"];
    for op in cases.values().filter(|op| !other.contains(&op.as_str())) {
        assert!(passed.contains_key(op.as_str()), "no case of {op} is computed");
    }
    assert!(passed.values().sum::<usize>() >= 90, "{passed:?}");
}

#[test]
fn networks_of_torchvision_compute_what_onnx_runtime_computes_of_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let given = std::env::var("OCTRAIN_ONNX_NETWORKS").unwrap_or_else(|_| {
        "resnet18 mobilenet_v3_small efficientnet_b0 shufflenet_v2_x0_5 small_vit mnasnet1_0:folded googlenet:kept \
         convnext_tiny:folded"
            .into()
    });
    let names: Vec<&str> = given.split_whitespace().collect();
    let words = [&["export", folder.to_str().unwrap()][..], &names].concat();
    let Some(files) = ask::<BTreeMap<String, Vec<String>>>(&words) else { return };
    for name in files.keys() {
        match fate(folder, name, Task::Classifier) {
            Fate::Apart(apart) => {
                println!("{name}: logits are {apart:.2e} apart");
                assert!(apart <= 1e-4, "{name}: {apart:.2e}");
            }
            Fate::Refused(why) => panic!("{name}: {why}"),
        }
    }
}

/// `tests/fixtures/onnx` holds what `onnx_networks.py newest` made, with what ONNX Runtime computed of it.
#[test]
fn a_network_of_pytorch_s_newer_exporter_computes_what_onnx_runtime_computes() {
    match fate(&repository().join("tests/fixtures/onnx"), "newest", Task::Classifier) {
        Fate::Apart(apart) => {
            println!("newest: logits are {apart:.2e} apart");
            assert!(apart <= 1e-5, "{apart:.2e}");
        }
        Fate::Refused(why) => panic!("{why}"),
    }
}

#[test]
fn the_light_models_of_the_onnx_package_compute_what_onnx_runtime_computes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let names = ["densenet121", "inception_v2", "resnet50", "shufflenet", "squeezenet"];
    let words = [&["light", folder.to_str().unwrap()][..], &names].concat();
    if ask::<BTreeMap<String, Vec<String>>>(&words).is_none() {
        return;
    }
    for name in names {
        match fate(folder, name, Task::Classifier) {
            Fate::Apart(apart) => {
                println!("{name}: probabilities are {apart:.2e} apart");
                assert!(apart <= 1e-4, "{name}: {apart:.2e}");
            }
            Fate::Refused(why) => panic!("{name}: {why}"),
        }
    }
}

/// A file of these nodes from `x` `[N,3,8,8]` to `output`.
fn file(node: Vec<NodeProto>, tensors: &[(&str, &[usize])], (output, shape): (&str, &[usize])) -> ModelProto {
    let wave = |i: usize| ((i * 37) % 19) as f32 / 19.0 - 0.45;
    let tensor = |(name, dims): &(&str, &[usize])| {
        let numbers: Vec<f32> = (0..dims.iter().product()).map(wave).collect();
        TensorProto::floats(name, dims, &numbers)
    };
    let graph = GraphProto {
        node,
        initializer: tensors.iter().map(tensor).collect(),
        input: vec![ValueInfoProto::batch("x", &[3, 8, 8])],
        output: vec![ValueInfoProto::batch(output, shape)],
        ..GraphProto::default()
    };
    ModelProto::new(graph, 17)
}

fn infer(model: &ModelProto, input: &str, images: &Tensor) -> Vec<f32> {
    let shape = images.size().into_iter().map(|d| d as usize).collect();
    let port = Port { name: input.into(), shape };
    let mut engine = load_network(EngineKind::Onnxruntime, &model.encode_to_vec(), vec![port], 1)
        .unwrap_or_else(|e| panic!("{e}"));
    engine.infer(&Vec::<f32>::try_from(images.contiguous().view([-1])).unwrap()).unwrap()
}

/// A file has one name space for what nodes make and for its weights, and the exporter has names of its own in it.
#[test]
fn whatever_a_file_names_its_nodes_what_is_exported_again_is_the_same_network() {
    let named = |op: &str, name: &str, inputs: &[&str], output: &str| {
        NodeProto::new(op, name, inputs, output, vec![])
    };
    let nodes = |first: &str, weight: &str, last: &str| {
        vec![
            named("Conv", first, &["x", weight], "c"),
            named("Relu", "", &["c"], "r"),
            named("GlobalAveragePool", "", &["r"], "p"),
            named("Flatten", "", &["p"], "f"),
            named("Gemm", "", &["f", "w"], last),
        ]
    };
    fn weights(first: &str) -> [(&str, &'static [usize]); 2] {
        [(first, &[4, 3, 3, 3]), ("w", &[4, 5])]
    }
    let image = vec![named("Conv", "", &["x", "k"], "c"), named("GlobalAveragePool", "", &["c"], "y")];
    let files = [
        ("its last node makes `logits`", file(nodes("", "k", "logits"), &weights("k"), ("logits", &[5]))),
        ("its first node makes `input`", file(nodes("input", "k", "y"), &weights("k"), ("y", &[5]))),
        ("a node has its weight's name", file(nodes("conv1", "conv1", "y"), &weights("conv1"), ("y", &[5]))),
        ("its output is [N,C,1,1]", file(image, &[("k", &[4, 3, 3, 3])], ("y", &[4, 1, 1]))),
    ];
    let images = Draws::new(7).normal(&[2, 3, 8, 8]);
    for (what, model) in files {
        let read = File::decode(&model.encode_to_vec()).unwrap().read(&BTreeMap::new());
        let made = network(&read, "Net", None, Task::Classifier).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let graph = passes::run(made.graph, &Strategy::default(), Purpose::Export).unwrap();
        let options = Options { profile: Profile::Fp32, opset: 13, float_type: FloatType::Fp32 };
        let exported = emit(&graph, &made.state, options, vec![]).unwrap().model;
        let [theirs, ours] = [infer(&model, "x", &images), infer(&exported, "input", &images)];
        let apart = theirs.iter().zip(&ours).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert_eq!(theirs.len(), ours.len(), "{what}");
        assert!(apart < 1e-5 && theirs.iter().any(|x| x.abs() > 1e-2), "{what}: {theirs:?} {ours:?}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What a checkpoint's network makes of images in floating point.
fn logits(checkpoint: &Snapshot, images: &Tensor) -> Tensor {
    let graph = passes::run(checkpoint.graph.clone(), &Strategy::default(), Purpose::Eval).unwrap();
    let mode = Mode::evaluation(false);
    Evaluator::of_state(graph, &checkpoint.model, mode, Device::Cpu).unwrap().logits(images).unwrap()
}

#[test]
fn a_file_of_octrain_s_own_is_the_same_network_again_and_goes_through_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["run", "mine.onnx", "imported", "int8", "int8.onnx", "further", "none"];
    let paths = names.map(|name| dir.path().join(name));
    let [run, mine, imported, int8, int8_file, further, none] = paths.each_ref().map(|path| text(path));
    let start = ["--epochs", "1", "--max-steps", "4", "--batch-size", "16", "--output-dir", run];
    succeed(&[&["train"], SMALL, &start[..]].concat());
    let export = |from: &str, profile: &str, file: &str| {
        succeed(&["export", "--from-checkpoint", from, "--profile", profile, "--output", file]);
    };
    export(run, "fp32", mine);
    let told = succeed(&["import", mine, "--output-dir", imported]);
    assert!(told.contains("(ONNX): mine") && told.contains("it has no BatchNorm"), "{told}");
    let [before, after] = [run, imported].map(|of| checkpoint::load(&newest(Path::new(of))).unwrap());
    // The file says what the run knew, and the network is the same but for BatchNorm, which files have folded.
    assert_eq!(after.manifest.class_names, before.manifest.class_names);
    assert_eq!(after.manifest.preprocessing, before.manifest.preprocessing);
    assert!(after.model.contains_key("conv1.weight") && after.model.contains_key("fc.weight"));
    let images = Draws::new(5).normal(&[8, 3, 32, 32]);
    let [ours, theirs] = [&after, &before].map(|c| logits(c, &images));
    let apart =
        (&ours - &theirs).abs().max().double_value(&[]) / theirs.abs().max().double_value(&[]).max(1.0);
    println!("logits of a file that is read back are {apart:.2e} apart");
    assert!(apart <= 1e-5, "{apart}");
    let data = ["--image-root", "digits", "--batch-size", "32", "--device", "cpu"];
    let eval = ["eval", "--from-checkpoint", imported, "--image-root", "digits", "--show-config", "false"];
    assert!(succeed(&eval).contains("val.top1"));
    let quantize = ["quantize", "--from-checkpoint", imported, "--output-dir", int8];
    succeed(&[&quantize[..], &data].concat());
    export(int8, "openvino", int8_file);
    let verify = [
        "verify",
        "--from-checkpoint",
        int8,
        "--model",
        int8_file,
        "--max-images",
        "64",
        // After so short a training logits lie close together.
        "--max-disagreement",
        "100",
    ];
    succeed(&[&verify[..], &data[..2], verified_as_far_as_sums_are_exact()].concat());
    // Trained further, with quantization: its network is that of the folder, under the name that it has there.
    let small = SMALL.iter().map(|word| if *word == "ResNet20" { "mine" } else { word }).collect::<Vec<_>>();
    let start = ["--from-pretrained-params", imported, "--qat", "--max-steps", "2", "--batch-size", "16"];
    succeed(&[&["train"], &small[..], &start, &["--output-dir", further]].concat());
    let trained = checkpoint::load(&newest(Path::new(further))).unwrap();
    assert_eq!(trained.graph, after.graph);
    assert!(trained.model["fc.weight"] != after.model["fc.weight"], "it was trained");
    // What is quantized already says what to take instead, and nothing is written.
    let told = octrain(&["import", int8_file, "--output-dir", none]);
    assert_eq!(told.status.code(), Some(2), "{}", said(&told));
    assert!(said(&told).contains("quantized already") && said(&told).contains("conv1"), "{}", said(&told));
    assert!(!Path::new(none).exists());
    // Under another network's name, the one that it has is said, wherever it is given.
    for (flag, named) in [
        ("--from-checkpoint", "the model is mine there and ResNet20 here; give the name that it has there"),
        ("--from-pretrained-params", "(not given: ResNet50; that of this checkpoint: mine)"),
    ] {
        let start = ["--max-steps", "1", "--batch-size", "16", "--output-dir", none, flag, imported];
        let again = ["--last-epoch-of-checkpoint", "none"];
        let again = if flag == "--from-checkpoint" { &again[..] } else { &[] };
        let told = refuse(2, &[&["train"], SMALL, &start[..], again].concat());
        assert!(told.contains(named) && told.contains("--model-arch-name"), "{told}");
    }
}
