//! Operators from outside the workspace's library crates, run: values, gradients, quantization, and the exported file in an
//! engine.

use octrain::checkpoint::{self, HostTensor, State, range_key};
use octrain::collective::Local;
use octrain::data::Preprocessing;
use octrain::engine::{EngineKind, Port, load_network};
use octrain::exec::ops::{Call, Forward, product, register};
use octrain::exec::{self, Evaluator, ExecError, Executor, Mode, Prepared, Record, Weights};
use octrain::export::{FloatType, Options, Profile, emit};
use octrain::graph::{
    Builder, Given, Graph, Layer, OnnxInput, OnnxNode, OnnxScope, Op, Operator, ParamKind, Site, TensorType,
};
use octrain::optim::{Before, CrossEntropy, DistributedOptimizer, Microbatch, Program, Sgd};
use octrain::passes::{self, GraphPass, Pass, Passes};
use octrain::strategy::{Purpose, Qat, Strategy, Target};
use octrain::verify;
use octrain_tests::adds_exactly;
use octrain_tests::random::Draws;
use octrain_tests::run::refuse;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tch::{Device, Kind, Tensor};

/// `x * sigmoid(x)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Swish;

impl Operator for Swish {
    fn kind(&self) -> &'static str {
        "Swish"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }

    /// Computed in floating point between quantized neighbours.
    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![
            OnnxNode::unary("Sigmoid"),
            OnnxNode::new("Mul", vec![OnnxInput::Value(0), OnnxInput::Made(0)]),
        ])
    }
}

impl Forward for Swish {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_mul(&call.x().f_sigmoid()?)?)
    }
}

/// A fully connected layer on the channels of every place: weight `[out, in, 1, 1]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mix {
    layer: Layer,
}

impl Operator for Mix {
    fn kind(&self) -> &'static str {
        "Mix"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        let ([channels, h, w], weight) = (given.image(0)?, given.param(&self.layer.weight)?);
        match weight {
            [out, inn, 1, 1] if *inn == channels => {
                Ok(TensorType { shape: vec![*out, h, w], dtype: self.layer.compute })
            }
            other => Err(format!("weight {other:?} does not fit {channels} channels")),
        }
    }

    fn layer(&self) -> Option<&Layer> {
        Some(&self.layer)
    }

    fn layer_mut(&mut self) -> Option<&mut Layer> {
        Some(&mut self.layer)
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![0])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::layer("Conv").sizes("kernel_shape", &[1, 1])])
    }
}

impl Forward for Mix {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        let weight = call.parameter(0)?;
        Ok(product(call.x(), weight, call.leaf(1), |x, w, b| {
            let y = x.f_permute([0, 2, 3, 1])?.f_linear(&w.f_flatten(1, -1)?, b)?;
            y.f_permute([0, 3, 1, 2])
        })?)
    }

    fn value_is_free(&self) -> bool {
        true
    }
}

/// Every channel times a parameter of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Gain {
    gain: String,
}

impl Operator for Gain {
    fn kind(&self) -> &'static str {
        "Gain"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        match given.param(&self.gain)? {
            [channels, 1, 1] if *channels == given.image(0)?[0] => Ok(given.inputs[0].clone()),
            other => Err(format!("gain {other:?} does not fit {}", given.inputs[0])),
        }
    }

    fn params(&self) -> Vec<&str> {
        vec![&self.gain]
    }

    fn quantized_inputs(&self, _: Target, _: &Site) -> Option<Vec<usize>> {
        Some(vec![])
    }

    fn onnx(&self, _: &OnnxScope) -> Result<Vec<OnnxNode>, String> {
        Ok(vec![OnnxNode::new("Mul", vec![OnnxInput::Value(0), OnnxInput::Param(self.gain.clone())])])
    }
}

impl Forward for Gain {
    fn forward(&self, call: &mut Call) -> Result<Tensor, ExecError> {
        Ok(call.x().f_mul(call.parameter(0)?)?)
    }
}

fn network() -> Graph {
    register::<Swish>("Swish").unwrap();
    register::<Mix>("Mix").unwrap();
    register::<Gain>("Gain").unwrap();
    let (mut b, x) = Builder::new("Own", [3, 8, 8]);
    let x = b.conv("stem", x, 6, 3, 1).unwrap();
    let x = b.batch_norm("stem_bn", x, ParamKind::Gamma).unwrap();
    let x = b.push("swish", Op::custom(Swish), &[x]).unwrap();
    let weight = b.param("mix.weight", &[4, 6, 1, 1], ParamKind::ConvWeight);
    let x = b.push("mix", Op::custom(Mix { layer: Layer::new(weight, None) }), &[x]).unwrap();
    let x = b.batch_norm("mix_bn", x, ParamKind::Gamma).unwrap();
    let x = b.push("relu", Op::Relu, &[x]).unwrap();
    let gain = b.param("gain.factor", &[4, 1, 1], ParamKind::Gamma);
    let x = b.push("gain", Op::custom(Gain { gain }), &[x]).unwrap();
    let x = b.push("pool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("dense", x, 7).unwrap();
    let x = b.batch_norm("dense_bn", x, ParamKind::Gamma).unwrap();
    let x = b.push("dense_relu", Op::Relu, &[x]).unwrap();
    let x = b.linear("fc", x, 5).unwrap();
    b.finish(x).unwrap()
}

fn images(n: i64) -> Tensor {
    Draws::new(5).normal(&[n, 3, 8, 8])
}

fn graph(purpose: Purpose, target: Option<Target>) -> Graph {
    let qat = target.map(|target| Qat { target, ..Qat::default() });
    passes::run(network(), &Strategy { qat, ..Strategy::default() }, purpose).unwrap()
}

/// Numbers with BatchNorms, gains and ranges that are not those of a start.
fn state(trained: &Graph) -> State {
    let mut weights = Weights::zeros(trained, Device::Cpu).unwrap();
    exec::initialise(&mut weights, 11, false).unwrap();
    let mut state = weights.to_state().unwrap();
    for (name, t) in state.iter_mut().filter(|(name, _)| name.contains("_bn") || name.contains("gain")) {
        let wave = |i: usize| ((i * 37 + name.len()) % 17) as f32 / 17.0;
        // Means below those of the values, so that ReLU does not silence the channels.
        let by = if name.ends_with("running_mean") { -0.5 } else { 0.5 };
        t.data.iter_mut().enumerate().for_each(|(i, x)| *x += by * wave(i));
    }
    let names: BTreeSet<String> = trained.quantizers().map(|(_, q)| q.name.clone()).collect();
    let float = Evaluator::of_state(trained.clone(), &state, Mode::evaluation(false), Device::Cpu).unwrap();
    for (name, value) in verify::values(&float, &images(8), &names).unwrap().1 {
        let range = HostTensor { shape: vec![1], data: vec![value.abs().max().double_value(&[]) as f32] };
        state.insert(range_key(&name), range);
    }
    state
}

#[test]
fn they_compute_what_they_say_and_are_differentiated() {
    let graph = graph(Purpose::Train, None);
    let mut weights = Weights::zeros(&graph, Device::Cpu).unwrap();
    exec::initialise(&mut weights, 3, false).unwrap();
    let executor = Executor::new(graph, &weights).unwrap();
    let mode = Mode {
        batch_stats: true,
        quantize: false,
        observe: false,
        unclipped: false,
        draws: None,
        int8: false,
    };
    let prepared = Prepared::new(executor.graph(), &weights, mode, true).unwrap();
    let mut record = Record::new(&weights.layout, Device::Cpu).unwrap();
    let mut values = std::collections::BTreeMap::new();
    let mut watch = |node: &octrain::graph::Node, value: &Tensor| {
        values.insert(node.name.clone(), value.detach().copy());
    };
    let pass = exec::Pass { prepared: &prepared, weights: &weights, mode, record: &mut record };
    let logits = executor.forward(&images(4), pass, Some(&mut watch)).unwrap();
    let want = &values["stem_bn"] * values["stem_bn"].sigmoid();
    assert!(values["swish"].allclose(&want, 1e-6, 1e-6, false));
    let kernel = weights.get("mix.weight").unwrap();
    let want = values["swish"].conv2d(&kernel, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1);
    assert!(values["mix"].allclose(&want, 1e-5, 1e-5, false));
    logits.square().sum(Kind::Float).backward();
    for (slot, leaf) in weights.layout.trainable.iter().zip(&prepared.leaves) {
        assert!(leaf.grad().defined(), "{} has no gradient", slot.name);
        assert!(leaf.grad().abs().sum(Kind::Float).double_value(&[]) > 0.0, "{}", slot.name);
    }
}

#[test]
fn exported_files_compute_what_the_training_graph_does() {
    for (profile, engine, codes) in [
        (Profile::Fp32, EngineKind::Openvino, 1e-4),
        (Profile::Openvino, EngineKind::Openvino, 0.02),
        (Profile::Onnxruntime, EngineKind::Onnxruntime, 0.02),
    ] {
        if profile != Profile::Fp32 && !adds_exactly("a quantized file with operators of one's own") {
            continue;
        }
        let trained = graph(Purpose::Eval, profile.target());
        let deployed = graph(Purpose::Export, profile.target());
        assert!(deployed.nodes.iter().all(|n| n.op.kind() != "BatchNorm"));
        let mix = deployed.node(deployed.find("mix").unwrap()).op.layer().unwrap();
        assert_eq!(mix.quantized(), profile != Profile::Fp32);
        let state = state(&trained);
        let mode = Mode::evaluation(profile != Profile::Fp32);
        let trained = Evaluator::of_state(trained, &state, mode, Device::Cpu).unwrap();
        let want = Vec::<f32>::try_from(trained.logits(&images(8)).unwrap().view([-1])).unwrap();
        let options = Options { profile, opset: 13, float_type: FloatType::Fp32 };
        let file = emit(&deployed, &state, options, vec![]).unwrap();
        let nodes = &file.model.graph.as_ref().unwrap().node;
        let named: Vec<&str> =
            nodes.iter().map(|n| n.name()).filter(|name| name.starts_with("swish")).collect();
        assert_eq!(named[..2], ["swish/0", "swish"], "{profile:?}");
        let port = Port { name: "input".into(), shape: vec![8, 3, 8, 8] };
        let mut engine = load_network(engine, &file.model.encode_to_vec(), vec![port], 1).unwrap();
        let got = engine.infer(&Vec::<f32>::try_from(images(8).view([-1])).unwrap()).unwrap();
        let top = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let apart = want.iter().zip(&got).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        let other = want[..5].iter().zip(&want[5..]).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        println!("{}: logits up to {top}, apart by {apart}, images by {other}", profile.name());
        assert!(other > 100.0 * apart.max(1e-6), "{profile:?}: images differ by {other} only");
        assert!(top > 0.1 && apart <= codes * top, "{profile:?}: {apart} of {top}");
    }
}

fn program(network: Graph, strategy: Strategy, passes: Passes) -> Program {
    let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local)).passes(passes);
    optimizer.minimize(network, CrossEntropy::default()).unwrap()
}

fn step(program: &mut Program) -> f64 {
    let labels = Tensor::arange(8, (Kind::Int64, Device::Cpu)).remainder(5);
    program.step(&[Microbatch { images: &images(8), labels: &labels }]).unwrap().loss
}

fn preprocessing() -> Preprocessing {
    Preprocessing {
        crop_size: 8,
        resize_short: 9,
        normalize_scale: 0.01,
        normalize_mean: [1.0; 3],
        normalize_std: [0.5; 3],
    }
}

fn classes() -> Vec<String> {
    ["a", "b", "c", "d", "e"].map(String::from).to_vec()
}

#[test]
fn a_checkpoint_holds_a_network_of_them_which_goes_on_and_is_exported() {
    let strategy = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
    let mut first = program(network(), strategy.clone(), Passes::default());
    assert!(first.calibrate(Before::Training, &[(0, images(8))], 1, &|| false).unwrap());
    step(&mut first);
    let dir = tempfile::tempdir().unwrap();
    let snapshot = first.snapshot(classes(), preprocessing()).unwrap();
    let folder = checkpoint::save(dir.path(), &snapshot).unwrap();
    let written = std::fs::read_to_string(folder.join("graph.json")).unwrap();
    assert!(
        written.contains(r#"{"Custom":{"kind":"Gain","attributes":{"gain":"gain.factor"}}}"#),
        "{written}"
    );

    let loaded = checkpoint::load(&folder).unwrap();
    assert_eq!((&loaded.graph, &loaded.manifest.strategy), (&network(), &strategy));
    assert_eq!(loaded.manifest.preprocessing, preprocessing());
    let mut second = program(loaded.graph.clone(), loaded.manifest.strategy.clone(), Passes::default());
    second.restore(&loaded).unwrap();
    assert_eq!(second.global_step, 1);
    // They go on alike, to the last bit, and are written alike.
    assert_eq!((step(&mut first), step(&mut first)), (step(&mut second), step(&mut second)));
    assert_eq!(first.weights.to_state().unwrap(), second.weights.to_state().unwrap());
    for profile in [Profile::Fp32, Profile::Openvino, Profile::Onnxruntime] {
        let [first, second] = [&first, &second].map(|p| p.deployed(profile, None).unwrap().model);
        assert_eq!(first, second, "{profile:?}");
    }
    // A program that does not know them says so.
    let output = dir.path().join("x.onnx");
    let line = ["--from-checkpoint", folder.to_str().unwrap(), "--profile", "fp32"];
    let told = refuse(2, &[&["export"], &line[..], &["--output", output.to_str().unwrap()]].concat());
    for want in ["graph.json", "operator `Swish` is none that this program knows", "register"] {
        assert!(told.contains(want), "{want} in {told}");
    }
    assert!(!output.exists());
}

/// Takes every ReLU for what it reads.
struct Linearise;

impl GraphPass for Linearise {
    fn name(&self) -> &str {
        "linearise"
    }

    fn what(&self) -> &str {
        "leaves out every ReLU"
    }

    fn apply(&self, mut graph: Graph, _: &Strategy) -> Result<Graph, octrain::graph::GraphError> {
        for i in 0..graph.nodes.len() {
            if graph.nodes[i].op == Op::Relu {
                graph.reroute(octrain::graph::NodeId(i), graph.nodes[i].inputs[0]);
            }
        }
        Ok(graph)
    }
}

#[test]
fn a_checkpoint_names_passes_of_ones_own_and_who_has_not_got_them_refuses_it() {
    let (mut b, x) = Builder::new("Plain", [3, 8, 8]);
    let x = b.conv("conv", x, 4, 3, 1).unwrap();
    let x = b.push("relu", Op::Relu, &[x]).unwrap();
    let x = b.push("pool", Op::GlobalAvgPool, &[x]).unwrap();
    let x = b.push("flatten", Op::Flatten, &[x]).unwrap();
    let x = b.linear("fc", x, 5).unwrap();
    let network = b.finish(x).unwrap();
    let passes = Passes::default().before(Pass::DropDead, Linearise);
    let program = program(network, Strategy::default(), passes);
    let dir = tempfile::tempdir().unwrap();
    let folder =
        checkpoint::save(dir.path(), &program.snapshot(classes(), preprocessing()).unwrap()).unwrap();
    assert_eq!(checkpoint::load(&folder).unwrap().manifest.passes[0], "linearise");
    let told = refuse(2, &["eval", "--from-checkpoint", folder.to_str().unwrap(), "--image-root", "digits"]);
    assert!(told.contains("(linearise)") && told.contains("Program::export"), "{told}");
}

/// An operator with facts and nothing that runs it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unheard;

impl Operator for Unheard {
    fn kind(&self) -> &'static str {
        "Unheard"
    }

    fn infer(&self, given: &Given) -> Result<TensorType, String> {
        Ok(given.inputs[0].clone())
    }
}

#[test]
fn one_that_nothing_runs_or_writes_is_refused_by_name() {
    let (mut b, x) = Builder::new("Unheard", [3, 8, 8]);
    let x = b.push("silence", Op::custom(Unheard), &[x]).unwrap();
    let graph = b.finish(x).unwrap();
    let weights = Weights::zeros(&graph, Device::Cpu).unwrap();
    let said = Executor::new(graph.clone(), &weights).err().unwrap().to_string();
    assert!(said.contains("`silence` (Unheard)") && said.contains("register::<TYPE>(\"Unheard\")"), "{said}");
    let options = Options { profile: Profile::Fp32, opset: 13, float_type: FloatType::Fp32 };
    let said = emit(&graph, &State::new(), options, vec![]).unwrap_err().to_string();
    assert!(said.contains("`silence` (Unheard)") && said.contains("Operator::onnx"), "{said}");
}
