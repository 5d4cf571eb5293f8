//! The networks of today, quantized, in the engines: depthwise, gated and attending ones run in INT8 for the runtimes they are
//! written for, layer by layer with the codes of training. And what is left out at random in training.

use octrain::checkpoint::{HostTensor, State, range_key};
use octrain::collective::Local;
use octrain::engine::{EngineKind, Port, profile_network};
use octrain::exec::{self, Evaluator, Mode, Weights};
use octrain::export::{FloatType, Options, Profile, emit};
use octrain::graph::{Builder, Graph, Initializer, Op, Scale, Square, Transpose};
use octrain::optim::{AfterStep, CrossEntropy, DistributedOptimizer, Microbatch, Program, Sgd, Sharing};
use octrain::strategy::{Purpose, Qat, ReduceType, Strategy};
use octrain::verify::{Layers, sort_kernels, values};
use octrain::{models, passes};
use octrain_tests::random::Draws;
use octrain_tests::{adds_exactly, python};
use prost::Message;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use tch::{Device, Tensor};

const SIDE: i64 = 32;

fn images(n: i64, seed: i64) -> Tensor {
    Draws::new(seed).normal(&[n, 3, SIDE, SIDE])
}

fn built(name: &str) -> Graph {
    models::build(name, [3, SIDE as usize, SIDE as usize], 10).unwrap()
}

/// A network for one profile as training and as export have it, with initial weights and the ranges of some images.
fn calibrated(name: &str, profile: Profile) -> (Graph, Graph, State) {
    of_recipe(&built(name), profile, Qat::default())
}

fn of_recipe(network: &Graph, profile: Profile, recipe: Qat) -> (Graph, Graph, State) {
    let qat = profile.target().map(|target| Qat { target, ..recipe });
    let strategy = Strategy { qat, ..Strategy::default() };
    let [trained, deployed] = [Purpose::Eval, Purpose::Export]
        .map(|purpose| passes::run(network.clone(), &strategy, purpose).unwrap());
    // No BatchNorm has seen a batch: values keep their size where weights are drawn by what a layer reads.
    let mut drawn = trained.clone();
    drawn.params.iter_mut().for_each(|p| p.initializer = Initializer::FanIn);
    let mut weights = Weights::zeros(&drawn, Device::Cpu).unwrap();
    exec::initialise(&mut weights, 11, false).unwrap();
    let mut state = weights.to_state().unwrap();
    // No bias is zero: engines leave out what adds nothing.
    for (_, t) in state.iter_mut().filter(|(name, _)| name.ends_with(".bias")) {
        t.data.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 37) % 17) as f32 / 170.0 - 0.04);
    }
    let names: BTreeSet<String> = trained.quantizers().map(|(_, q)| q.name.clone()).collect();
    let float = Evaluator::of_state(trained.clone(), &state, Mode::evaluation(false), Device::Cpu).unwrap();
    let (_, values) = values(&float, &images(8, 5), &names).unwrap();
    for (name, value) in values {
        let range = vec![value.abs().max().double_value(&[]) as f32];
        state.insert(range_key(&name), HostTensor { shape: vec![1], data: range });
    }
    (trained, deployed, state)
}

/// Fails where `profile`'s file runs a layer in floating point, or a code is further than 1 from training's.
fn runs_in_int8(
    name: &str,
    profile: Profile,
    opset: i64,
    (trained, deployed, state): &(Graph, Graph, State),
) {
    let what = format!("{name} {} opset {opset}", profile.name());
    let options = Options { profile, opset, float_type: FloatType::Fp32 };
    let exported = emit(deployed, state, options, vec![]).unwrap();
    let kind = if profile == Profile::Onnxruntime { EngineKind::Onnxruntime } else { EngineKind::Openvino };
    let port = Port { name: "input".into(), shape: vec![4, 3, SIDE as usize, SIDE as usize] };
    let nodes = profile_network(kind, &exported.model.encode_to_vec(), &[port]).unwrap();
    let kernels = sort_kernels(&nodes, trained);
    let products = trained.nodes.iter().filter(|n| n.op.facts().is_product()).count();
    let layers = trained.nodes.iter().filter(|n| n.op.layer().is_some()).count();
    assert_eq!(kernels.float, [""; 0], "{what}");
    // OpenVINO computes a head's two products of values in one node, which has the second one's name; without VNNI each
    // by itself, as far as was seen.
    let first = |name: &&String| trained.node(trained.find(name).unwrap()).op.layer().is_some();
    assert_eq!(kernels.unseen.iter().filter(first).collect::<Vec<_>>(), [""; 0], "{what}");
    let (fused, of_values) = (kernels.unseen.len(), products - layers);
    let fuses = kind == EngineKind::Openvino && octrain::engine::adds_exactly();
    assert_eq!(2 * fused, if fuses { of_values } else { 0 }, "{what}");
    assert!(kernels.int8 + fused >= products, "{what}: {} of {products}", kernels.int8);
    let float: Vec<&str> = exported.fp32_nodes.iter().map(|(name, _)| name.as_str()).collect();
    let stays = deployed.nodes.iter().filter(|n| n.op.facts().stays_float()).map(|n| n.name.as_str());
    assert_eq!(float, stays.collect::<Vec<_>>(), "{what}");
    if !adds_exactly("codes of 8-bit weights in engines") {
        return;
    }
    let evaluator = Evaluator::of_state(trained.clone(), state, Mode::EVAL, Device::Cpu).unwrap();
    let mut layers = Layers::new(&exported.model, kind).unwrap();
    layers.compare(&evaluator, &images(8, 6)).unwrap();
    for layer in layers.layers().iter().filter(|l| l.quantized()) {
        let within = layer.codes.within_one();
        assert!(within >= 99.9, "{what}, {}: {:?}", layer.name(), layer.codes);
    }
    let logits = layers.layers().last().unwrap().relative;
    assert!(logits < 2e-3, "{what}: logits differ by {logits}");
}

#[test]
fn depthwise_gated_and_attending_networks_run_in_int8_with_the_codes_of_training() {
    for name in ["MobileNetV2-32px", "MobileNetV3-Small", "EfficientNet-B0", "RegNetY-400MF", "ViT-32px"] {
        for (profile, opset) in [(Profile::Openvino, 13), (Profile::Onnxruntime, 17)] {
            runs_in_int8(name, profile, opset, &calibrated(name, profile));
        }
    }
}

/// TensorRT 11 computes in the types that a file says, so what is not in integers is in FP16, and scales with it.
#[test]
fn files_for_tensorrt_say_the_type_of_every_value() {
    let Some(python) = python() else { return };
    let (dir, profile) = (tempfile::tempdir().unwrap(), Profile::Tensorrt);
    let mut files: Vec<OsString> = Vec::new();
    for name in ["ResNet20", "MobileNetV2-32px", "MobileNetV3-Small", "EfficientNet-B0", "ViT-32px"] {
        let (trained, deployed, state) = calibrated(name, profile);
        let trained = Evaluator::of_state(trained, &state, Mode::EVAL, Device::Cpu).unwrap();
        for float_type in [FloatType::Fp32, FloatType::of(profile)] {
            let options = Options { profile, opset: 19, float_type };
            let model = emit(&deployed, &state, options, vec![]).unwrap().model;
            let path = dir.path().join(format!("{name}-{}.onnx", float_type.name()));
            std::fs::write(&path, model.encode_to_vec()).unwrap();
            if float_type == FloatType::Fp16 {
                files.push(path.into());
                if !adds_exactly("codes of 8-bit weights in engines") {
                    continue;
                }
                let mut layers = Layers::new(&model, EngineKind::Openvino).unwrap();
                layers.compare(&trained, &images(4, 6)).unwrap();
                for layer in layers.layers().iter().filter(|l| l.quantized()) {
                    let within = layer.codes.within_one();
                    assert!(within >= 99.9, "{name}, {}: {:?}", layer.name(), layer.codes);
                }
            }
        }
    }
    let args: Vec<&OsStr> = [OsStr::new("types")].into_iter().chain(files.iter().map(OsStr::new)).collect();
    let apart = python.run("onnx_files.py", &args);
    println!("logits in FP16 differ from those in FP32 by these parts of the largest: {apart}");
    // Codes that round the other way add up from layer to layer in networks that were not trained; none overflows.
    let apart: Vec<f64> = apart.split_whitespace().map(|part| part.parse().unwrap()).collect();
    assert!(apart.len() == files.len() && apart.iter().all(|&a| a < 1.0), "{apart:?}");
}

#[test]
fn codes_of_a_reduced_range_run_in_int8_too() {
    for profile in [Profile::Openvino, Profile::Onnxruntime] {
        let recipe = Qat { reduce_range: true, ..Qat::default() };
        runs_in_int8(
            "MobileNetV3-Small",
            profile,
            13,
            &of_recipe(&built("MobileNetV3-Small"), profile, recipe),
        );
    }
}

/// Blocks as ConvNeXt has them (Liu et al., arXiv 2201.03545): convolutions that LayerNorm, GELU and a scale read.
#[test]
fn convolutions_that_are_read_in_floating_point_run_in_int8_all_the_same() {
    let (mut b, x) = Builder::new("Blocks", [3, SIDE as usize, SIDE as usize]);
    let mut x = b.convolution("stem", x, Square::new(16, 4, 4).biased()).unwrap();
    for i in 0..2 {
        let named = |part: &str| format!("{i}.{part}");
        let mut y = b.convolution(&named("depthwise"), x, Square::depthwise(16, 7, 1).biased()).unwrap();
        y = b.push(&named("last"), Op::Transpose(Transpose { perm: vec![1, 2, 0] }), &[y]).unwrap();
        y = b.layer_norm(&named("norm"), y, 1e-6).unwrap();
        y = b.push(&named("first"), Op::Transpose(Transpose { perm: vec![2, 0, 1] }), &[y]).unwrap();
        y = b.convolution(&named("expand"), y, Square::new(64, 1, 1).biased()).unwrap();
        y = b.push(&named("gelu"), Op::Gelu, &[y]).unwrap();
        y = b.convolution(&named("project"), y, Square::new(16, 1, 1).biased()).unwrap();
        y = b.push(&named("scale"), Op::Scale(Scale { factor: 0.5 }), &[y]).unwrap();
        x = b.push(&named("add"), Op::Add, &[y, x]).unwrap();
    }
    let x = b.push("avgpool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 10).unwrap();
    let network = b.finish(x).unwrap();
    // Not so in OpenVINO, which computes the convolution before a Scale in floating point.
    let profile = Profile::Onnxruntime;
    runs_in_int8("blocks", profile, 17, &of_recipe(&network, profile, Qat::default()));
}

/// Learned ranges may lie beyond a ReLU6's 6; its cut at 6 is then one of codes, or stays.
#[test]
fn a_range_beyond_the_cut_of_a_clip_keeps_the_layer_before_it_in_int8() {
    for profile in [Profile::Onnxruntime, Profile::Openvino] {
        let name = "MobileNetV2-32px";
        let mut network = calibrated(name, profile);
        let clips = |network: &(Graph, Graph, State)| {
            let options = Options { profile, opset: 13, float_type: FloatType::Fp32 };
            let file = emit(&network.1, &network.2, options, vec![]).unwrap().model.graph.unwrap();
            file.node.iter().filter(|node| node.op_type() == "Clip").count()
        };
        let graph = &network.0;
        let cut = graph.quantizers();
        let cut = cut.filter(|(id, _)| matches!(graph.node(graph.node(*id).inputs[0]).op, Op::Clip(_)));
        let cut: Vec<String> = cut.map(|(_, q)| range_key(&q.name)).collect();
        assert_eq!(cut.len(), 35, "every Clip");
        // A pair whose last code is that of 6, or of less, does what the Clip would do.
        assert_eq!(clips(&network), 0, "{}", profile.name());
        for key in cut {
            network.2.insert(key, HostTensor { shape: vec![1], data: vec![6.7] });
        }
        assert_eq!(clips(&network), 35, "{}", profile.name());
        runs_in_int8(name, profile, 13, &network);
    }
}

/// A program of one worker, whose global batch is 4 microbatches.
fn program(seed: u64) -> Program {
    let sharing = Sharing { microbatches: 4, bucket_bytes: 1 << 20, reduce_type: ReduceType::Fp32 };
    let optimizer = DistributedOptimizer::new(Sgd::default(), Strategy::default(), Box::new(Local));
    let optimizer = optimizer.sharing(sharing).seed(seed);
    optimizer.minimize(built("MobileNetV3-Small"), CrossEntropy { label_smoothing: 0.0 }).unwrap()
}

/// Outputs of the network's dropout in one step on four times the same images.
fn thinned(program: &mut Program) -> Vec<Vec<f32>> {
    let (images, labels) = (images(2, 7), Tensor::from_slice(&[1i64, 2]));
    let one = || Microbatch { images: &images, labels: &labels };
    let mut seen = Vec::new();
    let mut watch = |node: &octrain::graph::Node, value: &Tensor| {
        if matches!(node.op, Op::Dropout(_)) {
            seen.push(Vec::<f32>::try_from(&value.detach().view([-1])).unwrap());
        }
    };
    program.step_watched(&[one(), one(), one(), one()], AfterStep::GoOn, Some(&mut watch)).unwrap();
    seen
}

#[test]
fn what_is_left_out_follows_from_seed_step_and_microbatch() {
    let mut first = program(3);
    let step = thinned(&mut first);
    assert_eq!(step.len(), 4);
    let zeros = |values: &[f32]| values.iter().map(|v| *v == 0.0).collect::<Vec<_>>();
    // The same images, and others of their features left out in each microbatch.
    for (i, j) in [(0, 1), (0, 3), (2, 3)] {
        assert_ne!(zeros(&step[i]), zeros(&step[j]), "{i} and {j}");
    }
    let share = step.iter().flatten().filter(|v| **v == 0.0).count() as f64 / (4.0 * 2.0 * 1024.0);
    assert!((0.15..0.25).contains(&share), "{share} of 0.2 left out");
    assert_eq!(thinned(&mut program(3)), step, "the same seed, step and images");
    assert_ne!(zeros(&thinned(&mut program(4))[0]), zeros(&step[0]), "another seed");
    assert_ne!(zeros(&thinned(&mut first)[0]), zeros(&step[0]), "another step");
    // Nothing is left out in an evaluation.
    let evaluator = program(3).evaluator(Mode::evaluation(false)).unwrap();
    let names = BTreeSet::from(["classifier.1".to_string(), "classifier.2".to_string()]);
    let (_, values) = values(&evaluator, &images(2, 7), &names).unwrap();
    assert!(values["classifier.1"].equal(&values["classifier.2"]));
}
