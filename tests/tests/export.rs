//! Exported files against ONNX's own checker and reference evaluator, and in the engines: what they run in INT8, and
//! how far their codes are from those of training.

use octrain::checkpoint::{HostTensor, State, range_key};
use octrain::engine::{EngineKind, Port, load_network, profile_network};
use octrain::exec::{self, Evaluator, Mode, Weights};
use octrain::export::onnx::ModelProto;
use octrain::export::onnx::tensor_proto::DataType;
use octrain::export::{FloatType, Options, Profile, emit};
use octrain::graph::{Builder, Concat, Graph, NodeId, Op, ParamKind, Window};
use octrain::quant::scheme::Scheme;
use octrain::strategy::{Purpose, Qat, Strategy};
use octrain::verify::{Codes, Cut, LOGITS, Layers, cuts, sort_kernels, values};
use octrain::{models, passes};
use octrain_tests::random::Draws;
use octrain_tests::{adds_exactly, python};
use prost::Message;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use tch::{Device, Tensor};

#[path = "export/apart.rs"]
mod apart;
#[path = "export/names.rs"]
mod names;

const SIDE: i64 = 16;
const INT8: [Profile; 3] = [Profile::Openvino, Profile::Onnxruntime, Profile::Tensorrt];
/// A network with numbers as training leaves them, for one profile.
struct Network {
    profile: Profile,
    trained: Graph,
    deployed: Graph,
    state: State,
}

fn resnet20() -> Graph {
    models::build("ResNet20", [3, SIDE as usize, SIDE as usize], 10).unwrap()
}

/// Branches of 1x1 and 3x3 convolutions and a pooled one, joined twice, as in Inception and SqueezeNet.
fn branches() -> Graph {
    let (mut b, x) = Builder::new("Branches", [3, SIDE as usize, SIDE as usize]);
    let layer = |b: &mut Builder, name: &str, x: NodeId, out, kernel, stride| {
        let x = b.conv(&format!("{name}.conv"), x, out, kernel, stride).unwrap();
        let x = b.batch_norm(&format!("{name}.bn"), x, ParamKind::Gamma).unwrap();
        b.push(&format!("{name}.relu"), Op::Relu, &[x]).unwrap()
    };
    let mut x = layer(&mut b, "stem", x, 16, 3, 1);
    for (block, stride) in [("first", 2), ("second", 1)] {
        let name = |part: &str| format!("{block}.{part}");
        let squeezed = layer(&mut b, &name("squeeze"), x, 8, 1, 1);
        let wide = layer(&mut b, &name("wide"), squeezed, 16, 3, stride);
        let narrow = layer(&mut b, &name("narrow"), squeezed, 16, 1, stride);
        let window = Window { kernel: 3, stride, padding: 1 };
        let pooled = b.push(&name("pool"), Op::MaxPool(window), &[x]).unwrap();
        x = b.push(&name("concat"), Op::Concat(Concat { axis: 0 }), &[wide, narrow, pooled]).unwrap();
    }
    let x = b.push("pool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 10).unwrap();
    b.finish(x).unwrap()
}

/// Residual blocks whose BatchNorm and ReLU stand before their convolutions: the first of each reads the sum.
fn preactivated() -> Graph {
    let (mut b, x) = Builder::new("Preactivated", [3, SIDE as usize, SIDE as usize]);
    let activated = |b: &mut Builder, name: &str, x: NodeId| {
        let x = b.batch_norm(&format!("{name}.bn"), x, ParamKind::Gamma).unwrap();
        b.push(&format!("{name}.relu"), Op::Relu, &[x]).unwrap()
    };
    let mut x = b.conv("stem", x, 16, 3, 1).unwrap();
    for block in ["first", "second"] {
        let name = |part: &str| format!("{block}.{part}");
        let y = activated(&mut b, &name("before"), x);
        let y = b.conv(&name("conv1"), y, 16, 3, 1).unwrap();
        let y = activated(&mut b, &name("between"), y);
        let y = b.conv(&name("conv2"), y, 16, 3, 1).unwrap();
        x = b.push(&name("add"), Op::Add, &[y, x]).unwrap();
    }
    let x = activated(&mut b, "last", x);
    let x = b.push("pool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 10).unwrap();
    b.finish(x).unwrap()
}

fn each_network_and_profile(profiles: &[Profile]) -> Vec<(Graph, Profile)> {
    let networks = [resnet20(), branches(), preactivated()];
    networks.iter().flat_map(|base| profiles.iter().map(|&p| (base.clone(), p))).collect()
}

/// Convolutions and linear layers.
fn layers(graph: &Graph) -> usize {
    graph.nodes.iter().filter(|n| matches!(n.op, Op::Conv(_) | Op::Linear(_))).count()
}

fn graph(
    base: &Graph,
    profile: Profile,
    (weight_bits, reduce_range): (u32, bool),
    purpose: Purpose,
) -> Graph {
    let qat = profile.target().map(|target| Qat { target, weight_bits, reduce_range, ..Qat::default() });
    passes::run(base.clone(), &Strategy { qat, ..Strategy::default() }, purpose).unwrap()
}

fn images(n: i64) -> Tensor {
    Draws::new(5).normal(&[n, 3, SIDE, SIDE])
}

impl Network {
    fn new(base: &Graph, profile: Profile, bits: u32) -> Self {
        Self::of(base, profile, bits, false)
    }

    fn of(base: &Graph, profile: Profile, bits: u32, reduce_range: bool) -> Self {
        let trained = graph(base, profile, (bits, reduce_range), Purpose::Eval);
        let deployed = graph(base, profile, (bits, reduce_range), Purpose::Export);
        let mut weights = Weights::zeros(&trained, Device::Cpu).unwrap();
        exec::initialise(&mut weights, 11, false).unwrap();
        let mut state = weights.to_state().unwrap();
        for (name, t) in state.iter_mut().filter(|(name, t)| name.contains("bn") && t.shape.len() == 1) {
            let running = name.contains("running");
            for (i, x) in t.data.iter_mut().enumerate() {
                let wave = ((i * 37 + name.len()) % 17) as f32 / 17.0 - 0.5;
                // One channel in 17 has a negative gamma.
                *x = if running {
                    *x + 0.4 * wave
                } else if wave == -0.5 {
                    -0.5
                } else {
                    *x + wave
                };
            }
        }
        let mut network = Self { profile, trained, deployed, state };
        network.observe();
        network
    }

    /// Takes the ranges of the floating-point network on the test's images.
    fn observe(&mut self) {
        let names: BTreeSet<String> = self.trained.quantizers().map(|(_, q)| q.name.clone()).collect();
        let mode = Mode::evaluation(false);
        let float = Evaluator::of_state(self.trained.clone(), &self.state, mode, Device::Cpu).unwrap();
        let (_, values) = values(&float, &images(8), &names).unwrap();
        assert_eq!(values.len(), names.len());
        for (name, value) in values {
            self.set_range(&name, value.abs().max().double_value(&[]) as f32);
        }
    }

    fn set_range(&mut self, name: &str, range: f32) {
        let range = HostTensor { shape: vec![1], data: vec![range] };
        self.state.insert(range_key(name), range);
    }

    fn trained(&self) -> Evaluator {
        let mode = Mode::evaluation(self.profile != Profile::Fp32);
        Evaluator::of_state(self.trained.clone(), &self.state, mode, Device::Cpu).unwrap()
    }

    fn emit(&self, opset: i64, float_type: FloatType) -> Result<ModelProto, String> {
        let options = Options { profile: self.profile, opset, float_type };
        emit(&self.deployed, &self.state, options, vec![]).map(|e| e.model).map_err(|e| e.to_string())
    }
}

/// The engine that runs a profile.
fn engine(profile: Profile) -> EngineKind {
    if profile == Profile::Onnxruntime { EngineKind::Onnxruntime } else { EngineKind::Openvino }
}

fn port(batch: usize) -> Port {
    Port { name: "input".into(), shape: vec![batch, 3, SIDE as usize, SIDE as usize] }
}

/// Convolutions and matrix products that `kind` does not run in INT8 in some layer that was cut out. A layer is to run as it
/// does in the whole network, or its figures say nothing.
fn float_layers_of_cuts(model: &ModelProto, trained: &Evaluator, kind: EngineKind) -> Vec<String> {
    let cuts = cuts(model).unwrap();
    let names = cuts.iter().flat_map(|c| c.inputs.iter().map(|f| &f.value).chain([&c.name])).cloned();
    let (logits, mut values) = values(trained, &images(4), &names.collect()).unwrap();
    values.insert(LOGITS.into(), logits);
    let shape = |name: &str| values[name].size().into_iter().map(|d| d as usize).collect::<Vec<_>>();
    let float_layers = |cut: &Cut| {
        let fed: Vec<_> = cut.inputs.iter().map(|f| shape(&f.value)).collect();
        let network = cut.network(&fed, &shape(&cut.name)).encode_to_vec();
        let ports = cut.inputs.iter().zip(fed).map(|(f, shape)| Port { name: f.tensor.clone(), shape });
        let nodes = profile_network(kind, &network, &ports.collect::<Vec<_>>()).unwrap();
        let float = nodes.into_iter().filter(|n| n.is_float_layer());
        float.map(|n| format!("{} in {}", n.name, cut.name)).collect::<Vec<_>>()
    };
    cuts.iter().flat_map(float_layers).collect()
}

/// Writes files and has ONNX's checker look at all of them.
fn check(files: &[(String, ModelProto)]) {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut paths: Vec<PathBuf> = Vec::new();
    for (name, model) in files {
        paths.push(dir.path().join(format!("{name}.onnx")));
        std::fs::write(paths.last().unwrap(), model.encode_to_vec()).unwrap();
    }
    let args: Vec<&OsStr> =
        [OsStr::new("check")].into_iter().chain(paths.iter().map(|p| p.as_os_str())).collect();
    assert_eq!(python.run("onnx_files.py", &args).trim(), files.len().to_string());
}

#[test]
fn every_profile_opset_weight_width_and_float_type_is_valid_onnx_or_an_error_that_says_what_to_change() {
    let (mut files, mut refused) = (Vec::new(), Vec::new());
    let profiles = [Profile::Fp32, Profile::Openvino, Profile::Onnxruntime, Profile::Tensorrt];
    for (base, profile) in each_network_and_profile(&profiles) {
        for bits in [7, 8] {
            let network = Network::new(&base, profile, bits);
            for opset in [13, 19, 21] {
                for float_type in [FloatType::Fp32, FloatType::Fp16] {
                    let name = format!("{}-{bits}-{opset}-{float_type:?}-{}", profile.name(), base.name);
                    match network.emit(opset, float_type) {
                        Ok(model) => files.push((name, model)),
                        Err(e) => refused.push((name, e)),
                    }
                }
            }
        }
    }
    assert_eq!((files.len(), refused.len()), (120, 24), "{refused:?}");
    for (name, why) in refused {
        let remedy = if name.starts_with("tensorrt") { "opset 19" } else { "use fp32" };
        assert!(why.contains(remedy), "{name}: {why}");
    }
    check(&files);
}

#[test]
fn the_reference_evaluator_computes_the_codes_of_training() {
    let Some(python) = python() else { return };
    let networks = each_network_and_profile(&INT8);
    for (base, profile, bits) in
        networks.into_iter().flat_map(|(base, p)| [(base.clone(), p, 8), (base, p, 7)])
    {
        let network = Network::new(&base, profile, bits);
        // The evaluator has Q/DQ from opset 19 on.
        let cuts = cuts(&network.emit(19, FloatType::Fp32).unwrap()).unwrap();
        let made: BTreeSet<&str> = cuts.iter().map(|c| c.name.as_str()).collect();
        let mut quantized =
            network.deployed.quantizers().filter(|(_, q)| q.active).map(|(_, q)| q.name.as_str());
        assert_eq!(quantized.find(|name| !made.contains(name)), None, "{made:?}");
        let names = cuts.iter().flat_map(|c| c.inputs.iter().map(|f| &f.value).chain([&c.name])).cloned();
        let (logits, mut values) = values(&network.trained(), &images(2), &names.collect()).unwrap();
        values.insert(LOGITS.into(), logits);
        let shape = |t: &Tensor| t.size().into_iter().map(|d| d as usize).collect::<Vec<_>>();
        let dir = tempfile::tempdir().unwrap();
        for cut in &cuts {
            let fed: Vec<_> = cut.inputs.iter().map(|f| (&f.tensor, &values[&f.value])).collect();
            let shapes: Vec<_> = fed.iter().map(|(_, t)| shape(t)).collect();
            let model = cut.network(&shapes, &shape(&values[&cut.name]));
            let path = dir.path().join(format!("{}.onnx", cut.name));
            std::fs::write(&path, model.encode_to_vec()).unwrap();
            let inputs: Vec<_> = fed.iter().map(|(name, t)| (name.as_str(), t)).collect();
            Tensor::write_safetensors(&inputs, dir.path().join(format!("{}.safetensors", cut.name))).unwrap();
        }
        python.run("onnx_files.py", &["run".as_ref(), dir.path().as_os_str()]);
        let results = Tensor::read_safetensors(dir.path().join("results.safetensors")).unwrap();
        assert_eq!(results.len(), cuts.len());
        let host = |t: &Tensor| Vec::<f32>::try_from(t.contiguous().view([-1])).unwrap();
        let mut all = Codes::default();
        for (name, got) in &results {
            let cut = cuts.iter().find(|c| &c.name == name).unwrap();
            match cut.scale {
                Some(scale) => all.add(&host(&values[name]), &host(got), scale),
                None => assert!(values[name].allclose(got, 1e-3, 1e-3, false), "{}: logits", profile.name()),
            }
        }
        let what = format!("{} {} at {bits} bits", base.name, profile.name());
        println!("{what}, fed the same inputs: {all:?}");
        assert_eq!(all.by_more, 0, "{what}: {all:?}");
        assert!(all.equal() >= 99.99, "{what}: {all:?}");
    }
}

#[test]
fn both_engines_run_all_layers_of_their_profile_in_int8_whole_and_cut() {
    let variants = [(13, 8, FloatType::Fp32), (21, 7, FloatType::Fp32), (19, 8, FloatType::Fp16)];
    for (base, profile) in each_network_and_profile(&INT8) {
        for (opset, bits, float_type) in variants {
            let network = Network::new(&base, profile, bits);
            let Ok(model) = network.emit(opset, float_type) else {
                assert_eq!((profile, float_type), (Profile::Onnxruntime, FloatType::Fp16));
                continue;
            };
            let what = format!("{} {} opset {opset} bits {bits} {float_type:?}", base.name, profile.name());
            let kind = engine(profile);
            let nodes = profile_network(kind, &model.encode_to_vec(), &[port(4)]).unwrap();
            let kernels = sort_kernels(&nodes, &network.trained);
            assert_eq!(kernels.float, [""; 0], "{what}");
            assert_eq!(
                (kernels.int8, kernels.unseen.len()),
                (layers(&base), 0),
                "{what}: {:?}",
                kernels.unseen
            );
            let trained = network.trained();
            let float = float_layers_of_cuts(&model, &trained, kind);
            assert!(float.is_empty(), "{what}: cut layers in floating point: {float:?}");
            if bits == 8 && !adds_exactly("codes of 8-bit weights in engines") {
                continue;
            }
            let mut layers = Layers::new(&model, kind).unwrap();
            layers.compare(&trained, &images(8)).unwrap();
            for layer in layers.layers().iter().filter(|l| l.quantized()) {
                let (within, equal) = (layer.codes.within_one(), layer.codes.equal());
                // A CPU with FP16 arithmetic rounds sums to 11 bits, each half a step off at most: a value as near to the
                // middle between two codes, of which there are 8 bits, may get the other.
                let least = if float_type == FloatType::Fp16 { 97.0 } else { 99.0 };
                assert!(within >= 99.9 && equal > least, "{what}, {}: {:?}", layer.name(), layer.codes);
            }
            assert!(layers.layers().last().unwrap().relative < 2e-3, "{what}");
        }
    }
}

#[test]
fn a_layer_with_codes_of_four_bits_among_others_of_eight_runs_as_it_is_trained() {
    let narrow = "layer2.0.conv1";
    for profile in INT8 {
        let mut network = Network::new(&resnet20(), profile, 8);
        for graph in [&mut network.trained, &mut network.deployed] {
            let id = graph.find(narrow).unwrap();
            graph.nodes[id.0].op.layer_mut().unwrap().scheme = Some(Scheme::weight(4));
            graph.verify().unwrap();
        }
        let model = network.emit(13, FloatType::Fp32).unwrap();
        let tensors = &model.graph.as_ref().unwrap().initializer;
        let largest = |layer: &str| {
            let name = format!("{layer}.weight.codes");
            let codes = tensors.iter().find(|t| t.name() == name).unwrap().raw_data();
            codes.iter().map(|&q| (q as i8).unsigned_abs()).max().unwrap()
        };
        assert_eq!((largest(narrow), largest("layer2.0.conv2")), (7, 127));
        if !adds_exactly("codes of 8-bit weights in engines") {
            continue;
        }
        let mut layers = Layers::new(&model, engine(profile)).unwrap();
        layers.compare(&network.trained(), &images(8)).unwrap();
        for layer in layers.layers().iter().filter(|l| l.quantized()) {
            let (within, equal) = (layer.codes.within_one(), layer.codes.equal());
            assert!(within >= 99.9 && equal > 99.0, "{profile:?}, {}: {:?}", layer.name(), layer.codes);
        }
    }
}

/// A convolution, and a linear layer whose BatchNorm makes the logits.
fn normalised_logits() -> Graph {
    let (mut b, x) = Builder::new("Normalised", [3, SIDE as usize, SIDE as usize]);
    let x = b.conv("conv", x, 16, 3, 1).unwrap();
    let x = b.push("relu", Op::Relu, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 3).unwrap();
    let x = b.batch_norm("fc_bn", x, ParamKind::Gamma).unwrap();
    b.finish(x).unwrap()
}

/// Logits are 1 at most in size: a unit in the last place is 6e-8.
#[test]
fn a_layer_whose_bias_does_not_fit_int32_is_evaluated_as_it_is_deployed() {
    let mut network = Network::new(&normalised_logits(), Profile::Onnxruntime, 8);
    let (input, fit) = (0.02, 0.3);
    network.set_range("relu", 255.0 * input);
    // Of outputs 0 and 2 the folded scale is 0.3 of the smallest at which a bias of 0.9 is 2^30 units; BatchNorm changes the
    // sign of output 0. Output 1 has a bias that fits.
    let smallest = 0.9 / (input * (1u32 << 30) as f32);
    let gamma: [f32; 3] = [-1e-6, 1.0, 1e-6];
    let mut put = |name: &str, data: Vec<f32>| network.state.get_mut(name).unwrap().data = data;
    let inputs = 16 * (SIDE * SIDE) as usize;
    let weight = |i: usize| match (i / inputs, i % inputs) {
        (1, i) => (i % 7) as f32 * 1e-6,
        // One code of 127, all others 1: those are 0 once the scale is raised.
        (_, 0) => 127.0 * fit * smallest / 1e-6,
        (_, _) => fit * smallest / 1e-6,
    };
    put("fc.weight", (0..3 * inputs).map(weight).collect());
    put("fc.bias", vec![0.0; 3]);
    put("fc_bn.weight", gamma.to_vec());
    put("fc_bn.bias", vec![0.9, 0.25, -0.9]);
    put("fc_bn.running_mean", vec![0.0; 3]);
    put("fc_bn.running_var", vec![1.0; 3]);

    let model = network.emit(13, FloatType::Fp32).unwrap();
    let tensors = &model.graph.as_ref().unwrap().initializer;
    let codes = tensors.iter().find(|t| t.name() == "fc.weight.codes").unwrap().raw_data();
    let code = |output: usize, i: usize| codes[output * inputs + i] as i8;
    assert_eq!([code(0, 0), code(0, 1), code(2, 0), code(2, 1)], [-38, 0, 38, 0]);
    assert_eq!((code(1, 6), code(1, 1)), (127, 21));

    let mut engine = load_network(EngineKind::Onnxruntime, &model.encode_to_vec(), vec![port(8)], 1).unwrap();
    let deployed = engine.infer(&Vec::<f32>::try_from(images(8).view([-1])).unwrap()).unwrap();
    let apart = |network: &Network| {
        let logits = network.trained().logits(&images(8)).unwrap();
        let logits = Vec::<f32>::try_from(logits.contiguous().view([-1])).unwrap();
        let mut apart = [0.0f32; 3];
        for (i, (a, b)) in logits.iter().zip(&deployed).enumerate() {
            apart[i % 3] = apart[i % 3].max((a - b).abs());
        }
        apart
    };
    let evaluated = apart(&network);
    println!("logits of training and of ONNX Runtime differ by {evaluated:?}");
    assert!(evaluated[0] < 5e-7 && evaluated[2] < 5e-7, "{evaluated:?}");
    // The training graph by itself, without what its target's integers make of the layer, is told apart.
    let id = network.trained.find("fc").unwrap();
    network.trained.nodes[id.0].op.layer_mut().unwrap().integer_bias = false;
    let unlike = apart(&network);
    println!("without it by {unlike:?}");
    assert!(unlike[0] > 5e-6 && unlike[2] > 5e-6, "{unlike:?}");
}

#[test]
fn values_beyond_a_range_are_cut_off_as_in_training_whatever_codes_the_file_has() {
    for (profile, reduced) in INT8.into_iter().flat_map(|p| [(p, false), (p, true)]) {
        let mut network = Network::of(&resnet20(), profile, 8, reduced);
        let names: Vec<String> = network.deployed.quantizers().map(|(_, q)| q.name.clone()).collect();
        for name in &names {
            let range = network.state[&range_key(name)].data[0];
            network.set_range(name, 0.4 * range);
        }
        let model = network.emit(13, FloatType::Fp32).unwrap();
        if !adds_exactly("codes of 8-bit weights in engines") {
            continue;
        }
        let mut layers = Layers::new(&model, engine(profile)).unwrap();
        layers.compare(&network.trained(), &images(8)).unwrap();
        for layer in layers.layers().iter().filter(|layer| layer.quantized()) {
            let told = format!("{} of {}: {:?}", layer.name(), profile.name(), layer.codes);
            assert!(layer.codes.by_more == 0 && layer.codes.values > 0, "{told}");
        }
        let graph = model.graph.as_ref().unwrap();
        let zero = graph.initializer.iter().find(|t| t.name() == "bn1.relu.zero_point").unwrap();
        let unsigned = zero.data_type() == i32::from(DataType::Uint8);
        assert_eq!(unsigned, profile != Profile::Tensorrt, "{}", profile.name());
        // Their type reaches to 255: what ends at 127 in training has to be cut there.
        let cut = graph.node.iter().any(|node| node.op_type() == "Clip");
        assert_eq!(cut, unsigned && reduced, "{}, reduced range: {reduced}", profile.name());
    }
}

#[test]
fn an_engine_of_another_profile_is_found_out() {
    let network = Network::new(&resnet20(), Profile::Tensorrt, 8);
    let model = network.emit(13, FloatType::Fp32).unwrap().encode_to_vec();
    let nodes = profile_network(EngineKind::Onnxruntime, &model, &[port(4)]).unwrap();
    assert_eq!(sort_kernels(&nodes, &network.trained).float.len(), layers(&network.trained));
}

#[test]
fn a_range_of_1e_7_is_exported_in_every_form_and_runs() {
    let mut files = Vec::new();
    for profile in INT8 {
        let mut network = Network::new(&resnet20(), profile, 8);
        let tiny = "layer1.0.bn1.relu";
        network.set_range(tiny, 1e-7);
        for (opset, float_type) in [(13, FloatType::Fp32), (19, FloatType::Fp16)] {
            let Ok(model) = network.emit(opset, float_type) else { continue };
            let of = |name: &str| {
                let tensors = &model.graph.as_ref().unwrap().initializer;
                DataType::try_from(tensors.iter().find(|t| t.name() == name).unwrap().data_type()).unwrap()
            };
            assert_eq!(of(&format!("{tiny}.scale")), DataType::Float);
            let others = match (profile, float_type) {
                (Profile::Tensorrt, FloatType::Fp16) => DataType::Float16,
                _ => DataType::Float,
            };
            assert_eq!(of("layer1.0.relu.scale"), others);
            let kind = engine(profile);
            let mut engine = load_network(kind, &model.encode_to_vec(), vec![port(8)], 1).unwrap();
            let input = Vec::<f32>::try_from(images(8).view([-1])).unwrap();
            assert!(engine.infer(&input).unwrap().iter().all(|x| x.is_finite()));
            files.push((format!("{}-{opset}", profile.name()), model.clone()));
            if !adds_exactly("codes of 8-bit weights in engines") {
                continue;
            }
            let mut layers = Layers::new(&model, kind).unwrap();
            layers.compare(&network.trained(), &images(8)).unwrap();
            for layer in layers.layers().iter().filter(|l| l.quantized()) {
                assert!(layer.codes.within_one() >= 99.9, "{profile:?} {}: {:?}", layer.name(), layer.codes);
            }
        }
    }
    assert_eq!(files.len(), 5);
    check(&files);
}
