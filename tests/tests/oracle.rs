//! Octrain against PyTorch: forward, loss, gradients, optimizer steps, fake quantization, schedules. The scripts
//! in `tests/oracles` run in the Python environment that `scripts/setup.sh --test` makes.

use octrain::checkpoint::State;
use octrain::collective::Local;
use octrain::config::LrScheduler;
use octrain::graph::{Graph, Op};
use octrain::models;
use octrain::native;
use octrain::optim::schedule::{LearningRate, Schedule};
use octrain::optim::{
    AdamW, AfterStep, CrossEntropy, Decayed, DistributedOptimizer, Microbatch, Program, Sgd, Sharing, Update,
    UpdateRule, WeightDecay,
};
use octrain::strategy::{Averaging, Layout, ReduceType, Strategy};
use octrain_tests::python;
use octrain_tests::random::Draws;
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Kind, Tensor};

const MICROBATCHES: usize = 2;

fn program(graph: Graph, rule: Rule, schedule: Schedule, layout: Layout) -> Program {
    let strategy = Strategy { layout, ..Strategy::default() };
    let sharing =
        Sharing { microbatches: MICROBATCHES, bucket_bytes: 1 << 20, reduce_type: ReduceType::Fp32 };
    let loss = CrossEntropy { label_smoothing: 0.1 };
    let collective = Box::new(Local);
    let Rule { rule, clip, .. } = rule;
    let optimizer = DistributedOptimizer::new(rule, strategy, collective).schedule(schedule).sharing(sharing);
    optimizer.clip_norm(clip).minimize(graph, loss).unwrap()
}

fn write(path: &Path, tensors: &[(String, Tensor)]) {
    Tensor::write_safetensors(tensors, path).unwrap();
}

fn read(path: &Path) -> std::collections::HashMap<String, Tensor> {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

/// Norm of all differences relative to the norm of all reference values. A value at the bound of an activation falls on either
/// side of it as the last bit is, and so moves the gradients of its channel: where arithmetic is not PyTorch's own to the last
/// bit, the whole agrees and not each tensor's largest difference.
fn difference_of_all(pairs: &[(&str, Tensor, Tensor)]) -> f64 {
    let off = pairs.iter().fold(0.0, |sum: f64, (_, got, want)| sum.hypot(norm(&(got - want))));
    off / pairs.iter().fold(0.0, |sum: f64, (_, _, want)| sum.hypot(norm(want)))
}

fn norm(t: &Tensor) -> f64 {
    t.to_kind(Kind::Double).norm().double_value(&[])
}

/// Largest difference relative to the largest reference value.
fn difference(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.size(), want.size());
    let scale = want.abs().max().double_value(&[]).max(1e-12);
    (got.to_kind(Kind::Double) - want.to_kind(Kind::Double)).abs().max().double_value(&[]) / scale
}

/// Norm of the differences relative to the norm of the reference values, or to that of values of `least` where that is larger: a
/// number that is zero but for rounding (the shift of a branch, which the next BatchNorm takes away) tells nothing. One value that
/// falls on the other side of a ReLU moves a few elements by far more than all others, so the largest difference tells little.
fn difference_by_norm(got: &Tensor, want: &Tensor, least: f64) -> f64 {
    assert_eq!(got.size(), want.size());
    norm(&(got - want)) / norm(want).max(least * (want.numel() as f64).sqrt())
}

/// An update rule and what is around it.
struct Rule {
    rule: Box<dyn UpdateRule>,
    /// What PyTorch is told of it.
    told: Value,
    clip: Option<f64>,
}

fn sgd(nesterov: bool) -> Rule {
    let rule = Sgd { momentum: 0.875, nesterov, weight_decay: WeightDecay::of_weights(1e-3) };
    let told = json!({"rule": rule.name(), "momentum": 0.875, "nesterov": nesterov, "weight_decay": 1e-3});
    Rule { rule: Box::new(rule), told, clip: None }
}

/// With an epsilon of the size of gradients, below which a gradient's rounding is not made a step of its own.
fn adamw() -> Rule {
    let weight_decay = WeightDecay { weights: 0.1, norms: 0.05, biases: 0.2, embeddings: 0.0 };
    let rule = AdamW { beta1: 0.8, beta2: 0.95, epsilon: 1e-2, weight_decay };
    let told = json!({
        "rule": rule.name(), "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2, "weight_decay": 0.1,
        "norm_weight_decay": 0.05, "bias_weight_decay": 0.2,
    });
    Rule { rule: Box::new(rule), told, clip: None }
}

/// Leaves nothing out at random: that is drawn otherwise in PyTorch.
fn quiet(mut graph: Graph) -> Graph {
    for node in &mut graph.nodes {
        match &mut node.op {
            Op::Dropout(dropout) => dropout.p = 0.0,
            Op::StochasticDepth(depth) => depth.p = 0.0,
            _ => {}
        }
    }
    graph
}

fn steps_agree(
    model: &str,
    [channels, side]: [usize; 2],
    steps: usize,
    rule: impl Fn() -> Rule,
    layout: Layout,
) {
    let Some(python) = python() else { return };
    let classes = 10;
    let graph = quiet(models::build(model, [channels, side, side], classes).unwrap());
    let output_name = graph.node(graph.output).name.clone();
    // A step small enough that rounding does not grow from one to the next.
    let rate = 5e-4;
    let schedule = Schedule {
        kind: LrScheduler::Constant,
        lr: rate,
        warmup_start_lr: 0.0,
        warmup_steps: 0,
        total_steps: steps as u64,
    };
    let Rule { told, clip, .. } = rule();
    let begin = || program(graph.clone(), rule(), schedule, layout);
    let mut draws = Draws::new(3);
    let mut given: Vec<(String, Tensor)> = Vec::new();
    let mut batches = Vec::new();
    for step in 0..steps {
        let mut share = Vec::new();
        for m in 0..MICROBATCHES {
            let images = draws.normal(&[8, channels as i64, side as i64, side as i64]);
            let labels = draws.labels(classes, 8);
            given.push((format!("images.{step}.{m}"), images.shallow_clone()));
            given.push((format!("labels.{step}.{m}"), labels.shallow_clone()));
            share.push((images, labels));
        }
        batches.push(share);
    }
    drop(draws);
    let state: State = begin().weights.to_state().unwrap();
    for (name, t) in &state {
        let shape: Vec<i64> = t.shape.iter().map(|&d| d as i64).collect();
        given.push((name.clone(), Tensor::from_slice(&t.data).view(shape.as_slice())));
    }
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    write(&input, &given);
    let mut settings = json!({
        "model": model, "channels": channels, "side": side, "classes": classes, "lr": vec![rate; steps],
        "label_smoothing": 0.1, "microbatches": MICROBATCHES, "layout": layout, "clip_norm": clip,
    });
    let all = settings.as_object_mut().unwrap();
    all.extend(told.as_object().unwrap().clone());
    python.run("train_steps.py", &[input.as_os_str(), output.as_os_str(), settings.to_string().as_ref()]);
    let want = read(&output);
    // Of the largest gradient: what is smaller is rounding.
    let rounding = 1e-3;
    let largest = |kind: &str| {
        let of = want.iter().filter(|(name, _)| name.starts_with(kind));
        of.map(|(_, t)| t.abs().max().double_value(&[])).fold(0.0, f64::max)
    };

    // Watched, it runs operator by operator, as PyTorch does, and is PyTorch's tensor by tensor. Else neighbours run as one, with
    // another last bit, which grows from layer to layer: by how much, images with other last bits show.
    let mut usual = [0.0f64; 3];
    let mut usual_of = std::collections::HashMap::new();
    for (watched, factor) in [(true, 1.0), (true, 1.0 + 1e-6), (false, 1.0)] {
        let exact = watched && factor == 1.0;
        let mut program = begin();
        let mut logits = None;
        let mut apart = [0.0f64; 3];
        for (step, share) in batches.iter().enumerate() {
            let share: Vec<(Tensor, &Tensor)> =
                share.iter().map(|(x, labels)| (x * factor, labels)).collect();
            let microbatches: Vec<Microbatch> =
                share.iter().map(|(images, labels)| Microbatch { images, labels }).collect();
            let mut watch = |node: &octrain::graph::Node, value: &Tensor| {
                if node.name == output_name && logits.is_none() {
                    logits = Some(value.detach());
                }
            };
            let watch: Option<&mut octrain::exec::Watch> = if watched { Some(&mut watch) } else { None };
            let outcome = program.step_watched(&microbatches, AfterStep::GoOn, watch).unwrap();
            let loss = want[&format!("loss.{step}")].double_value(&[0]);
            assert!(
                (outcome.loss - loss).abs() < 2e-4 * loss,
                "step {step}: {} against {loss}",
                outcome.loss
            );
            let whole = want[&format!("norm.{step}")].double_value(&[0]);
            assert!(clip.is_none_or(|most| whole > 2.0 * most), "{whole} is not clipped");
            let off = (outcome.grad_norm - whole).abs() / whole;
            assert!(off < if exact { 1e-3 } else { 1e-2 }, "step {step}: {} {whole}", outcome.grad_norm);
            if step == 0 {
                // The update on the CPU leaves the gradient as it was.
                let slots = program.weights.layout.trainable.iter().zip(program.gradients());
                let pairs: Vec<(&str, Tensor, Tensor)> = slots
                    .map(|(slot, got)| {
                        (&slot.name[..], got.copy(), want[&format!("grad.{}", slot.name)].copy())
                    })
                    .collect();
                for (name, got, expect) in pairs.iter().filter(|_| exact) {
                    let d = difference_by_norm(got, expect, rounding * largest("grad."));
                    assert!(d < 2e-3, "{model}: gradient of {name} differs by {d:.1e}");
                }
                apart[0] = difference_of_all(&pairs);
                // Each by its own norm, where it is not next to nothing beside the largest.
                let largest = pairs.iter().map(|(.., want)| norm(want)).fold(0.0, f64::max);
                for (name, got, want) in pairs.iter().filter(|(.., want)| norm(want) > 1e-2 * largest) {
                    let off = norm(&(got - want)) / norm(want);
                    if watched {
                        usual_of.insert(name.to_string(), off);
                        continue;
                    }
                    let usual = usual_of[*name];
                    assert!(
                        off < 4.0 * usual + 0.1,
                        "{model}: gradient of {name} is off by {off:.1e}, usually {usual:.1e}"
                    );
                }
            }
        }
        assert_eq!(logits.is_some(), watched);
        if let Some(logits) = logits.filter(|_| exact) {
            let d = difference(&logits, &want["logits"]);
            assert!(d < 1e-4, "{model}: logits differ by {d:.1e}");
        }
        // What the steps have changed, not the weights as a whole: those hardly move.
        let start_of = |name: &str| &given.iter().find(|(n, _)| n == name).unwrap().1;
        let changes = state.keys().map(|name| {
            let start = start_of(name);
            (&name[..], program.weights.get(name).unwrap() - start, &want[&format!("final.{name}")] - start)
        });
        let is_statistic = |(name, ..): &(&str, Tensor, Tensor)| name.contains("running_");
        let (statistics, weights): (Vec<_>, Vec<_>) = changes.partition(is_statistic);
        // Statistics of a millionth are zero but for rounding, beside variances of one. A weight's change is rounded to the last
        // bit of the weight.
        for (name, moved, want) in statistics.iter().chain(&weights).filter(|_| exact) {
            let last_bits = 32.0 * f32::EPSILON as f64 * start_of(name).abs().max().double_value(&[]);
            let least = if name.contains("running_") {
                1e-6
            } else {
                last_bits.max(rounding * rate * largest("grad."))
            };
            let d = difference_by_norm(moved, want, least);
            assert!(d < 2e-2, "{model}: the change of {name} differs by {d:.1e} after {steps} steps");
        }
        apart[1] = difference_of_all(&weights);
        apart[2] = if statistics.is_empty() { 0.0 } else { difference_of_all(&statistics) };
        if watched {
            usual = apart;
            assert!(usual.iter().all(|off| *off < 0.1), "{model}: last bits alone make {usual:?}");
            continue;
        }
        for ((what, off), usual) in
            ["gradients", "changes of weights", "statistics"].iter().zip(apart).zip(usual)
        {
            assert!(
                off < 4.0 * usual + 1e-3,
                "{model}: {what} differ by {off:.1e}, by other last bits {usual:.1e}"
            );
        }
    }
}

#[test]
fn resnet20_trains_as_in_pytorch() {
    steps_agree("ResNet20", [3, 32], 3, || sgd(false), Layout::Nhwc);
}

#[test]
fn resnet20_with_adamw_trains_as_in_pytorch() {
    steps_agree("ResNet20", [3, 32], 3, adamw, Layout::Nhwc);
}

#[test]
fn resnet20_with_clipped_gradients_trains_as_in_pytorch() {
    let rules: [fn() -> Rule; 2] = [|| sgd(false), adamw];
    for rule in rules {
        let clipped = || Rule { clip: Some(0.25), ..rule() };
        steps_agree("ResNet20", [3, 32], 3, clipped, Layout::Nhwc);
    }
}

#[test]
fn the_average_of_weights_and_statistics_is_torchvisions() {
    let Some(python) = python() else { return };
    // Updates after the steps 0, 2, 4, 6 and 8, of which those in the warm-up and the first after it copy.
    let (steps, averaging) = (9, Averaging { decay: 0.7, every: 2, warmup: 1 });
    let graph = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let optimizer = DistributedOptimizer::new(Sgd::default(), Strategy::default(), Box::new(Local));
    let mut program = optimizer.averaging(Some(averaging)).minimize(graph, CrossEntropy::default()).unwrap();
    let mut draws = Draws::new(4);
    let mut given = Vec::new();
    for step in 0..steps {
        let (images, labels) = (draws.normal(&[4, 3, 32, 32]), draws.labels(10, 4));
        program.step(&[Microbatch { images: &images, labels: &labels }]).unwrap();
        for name in program.weights.to_state().unwrap().keys() {
            given.push((format!("{step}.{name}"), program.weights.get(name).unwrap().copy()));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    write(&input, &given);
    let settings = json!({
        "model": "ResNet20", "classes": 10, "steps": steps, "decay": averaging.decay, "every": averaging.every,
        "warmup": averaging.warmup,
    });
    python.run("average.py", &[input.as_os_str(), output.as_os_str(), settings.to_string().as_ref()]);
    let want = read(&output);
    let average = program.average().expect("there were updates");
    for name in average.to_state().unwrap().keys() {
        let d = difference(&average.get(name).unwrap(), &want[name]);
        assert!(d < 1e-6, "the average of {name} differs by {d:.1e}");
        let apart = difference(&program.weights.get(name).unwrap(), &want[name]);
        assert!(apart > 1e-4, "{name} has hardly moved, by {apart:.1e}");
    }
}

#[test]
fn resnet20_with_nesterov_and_channels_first_trains_as_in_pytorch() {
    steps_agree("ResNet20", [3, 32], 3, || sgd(true), Layout::Nchw);
}

#[test]
fn resnet18_with_four_channels_trains_as_in_pytorch() {
    steps_agree("ResNet18", [4, 64], 3, || sgd(false), Layout::Nhwc);
}

#[test]
fn resnet50_trains_as_in_pytorch() {
    // One step: from its initial weights this network magnifies rounding beyond any tolerance within two.
    steps_agree("ResNet50", [3, 64], 1, || sgd(false), Layout::Nhwc);
}

#[test]
fn mobilenets_train_as_in_pytorch() {
    steps_agree("MobileNetV2-32px", [3, 32], 1, || sgd(false), Layout::Nhwc);
    steps_agree("MobileNetV3-Small", [3, 64], 1, || sgd(false), Layout::Nhwc);
    steps_agree("MobileNetV3-Large", [3, 64], 1, || sgd(false), Layout::Nhwc);
}

#[test]
fn efficientnets_train_as_in_pytorch() {
    steps_agree("EfficientNet-B0", [3, 64], 1, || sgd(false), Layout::Nhwc);
    steps_agree("EfficientNet-Lite0", [3, 64], 1, || sgd(false), Layout::Nhwc);
}

#[test]
fn regnets_train_as_in_pytorch() {
    steps_agree("RegNetX-400MF", [3, 64], 1, || sgd(false), Layout::Nhwc);
    steps_agree("RegNetY-400MF", [3, 64], 1, || sgd(false), Layout::Nhwc);
}

#[test]
fn vision_transformers_train_as_in_pytorch() {
    steps_agree("ViT-32px", [3, 32], 3, adamw, Layout::Nchw);
    steps_agree("ViT-Ti", [3, 32], 1, || sgd(false), Layout::Nchw);
}

#[test]
fn adamw_is_pytorchs() {
    let Some(python) = python() else { return };
    let mut draws = Draws::new(11);
    let (decayed, rest) = (40i64, 24i64);
    let rule = AdamW::default();
    let pieces = [Decayed { offset: 0, len: decayed, rate: 0.1 }];
    let rates = [1e-3, 1e-2, 3e-2, 1e-2, 1e-3, 1e-2];
    let mut given: Vec<(String, Tensor)> =
        vec![("decayed".into(), draws.normal(&[decayed])), ("rest".into(), draws.normal(&[rest]))];
    let weights = Tensor::cat(&[&given[0].1, &given[1].1], 0);
    let buffers = [weights.zeros_like(), weights.zeros_like()];
    for (step, lr) in rates.into_iter().enumerate() {
        // Of sizes from 1e-4 to 1e4.
        let size = (draws.uniform(&[decayed + rest]) * 8.0 - 4.0) * std::f64::consts::LN_10;
        let gradients = draws.normal(&[decayed + rest]) * size.exp();
        given.push((format!("gradient.{step}"), gradients.shallow_clone()));
        let (weights, buffers, gradients) = (&weights, &buffers[..], &gradients.copy());
        let count = step as u64 + 1;
        rule.update(Update { weights, buffers, gradients, decayed: &pieces, lr, count }).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    write(&input, &given);
    let settings = json!({
        "lr": rates, "beta1": rule.beta1, "beta2": rule.beta2, "epsilon": rule.epsilon,
        "weight_decay": pieces[0].rate,
    });
    python.run("adamw.py", &[input.as_os_str(), output.as_os_str(), settings.to_string().as_ref()]);
    let want = read(&output);
    for (name, got) in [("weights", &weights)].into_iter().chain(rule.buffers().iter().copied().zip(&buffers))
    {
        let apart = ((got - &want[name]).abs() / (want[name].abs() + 1e-12)).max().double_value(&[]);
        assert!(apart < 1e-5, "{name} differ by {apart:.1e} of themselves");
    }
}

#[test]
fn fake_quantization_is_onnx_s_and_pytorchs() {
    let Some(python) = python() else { return };
    let mut draws = Draws::new(5);
    let float = (Kind::Float, Device::Cpu);
    let mut given: Vec<(String, Tensor)> = Vec::new();
    let cases = [
        ("signed", [4i64, 3, 5, 7], vec![0.03f32], [-127i64, 127]),
        ("unsigned", [2, 8, 4, 4], vec![0.008], [0, 255]),
        ("reduced", [2, 8, 4, 4], vec![0.01], [0, 127]),
        ("tiny", [2, 3, 3, 3], vec![1e-6], [-127, 127]),
        ("ties", [2, 8, 5, 9], vec![0.25], [-127, 127]),
        ("unsigned-ties", [2, 8, 5, 9], vec![0.125], [0, 255]),
        ("large", [16, 16, 16, 16], vec![0.017], [-127, 127]),
        ("channels", [5, 2, 3, 3], vec![0.01, 0.02, 0.3, 1e-5, 0.04], [-127, 127]),
    ];
    for (name, shape, scale, codes) in &cases {
        let x = match *name {
            "ties" => (Tensor::arange(shape.iter().product::<i64>(), float) - 360) * 0.125,
            "unsigned-ties" => (Tensor::arange(shape.iter().product::<i64>(), float) - 180) * 0.0625,
            _ => draws.normal(shape),
        };
        given.push((format!("{name}.x"), x.view(*shape)));
        given.push((format!("{name}.gradient"), draws.normal(shape)));
        given.push((format!("{name}.scale"), Tensor::from_slice(scale)));
        for (end, code) in ["qmin", "qmax"].into_iter().zip(codes) {
            given.push((format!("{name}.{end}"), Tensor::from_slice(&[*code])));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    write(&input, &given);
    python.run("fake_quant.py", &[input.as_os_str(), output.as_os_str()]);
    let (given, want) = (read(&input), read(&output));
    for (name, _, scale, [qmin, qmax]) in &cases {
        let of = |part: &str| &want[&format!("{name}.{part}")];
        let x = given[&format!("{name}.x")].set_requires_grad(true);
        let scales = &given[&format!("{name}.scale")];
        let wide = scales.view([-1, 1, 1, 1]);
        let y = match scale.len() {
            1 => native::fake_quant(&x, scales, *qmin, *qmax, false),
            _ => native::fake_quant_per_channel(&x, scales, *qmin, *qmax, false),
        }
        .unwrap();
        // ONNX: every code and every number.
        assert!((&y / &wide).round().equal(of("onnx_codes")), "{name}: codes are not ONNX's");
        assert!(y.equal(of("onnx_y")), "{name}: values are not ONNX's");
        let gradient = &given[&format!("{name}.gradient")];
        let differentiate = |y: &Tensor, by: &[&Tensor]| {
            Tensor::run_backward(&[(y * gradient).sum(Kind::Float)], by, false, false)
        };
        let dx = differentiate(&y, &[&x]).remove(0);
        // PyTorch multiplies by 1 / scale where ONNX and Octrain divide: near a tie codes may differ by one.
        let near = |y: &Tensor, dx: &Tensor, other_y: &Tensor, other_dx: &Tensor| {
            let apart = ((y - other_y) / &wide).abs();
            assert!(apart.max().double_value(&[]) < 1.01, "{name}");
            let share = |t: Tensor| t.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            assert!(share(apart.gt(0.5)) < 1e-3, "{name}");
            assert!(share((dx - other_dx).abs().gt(1e-6)) < 1e-3, "{name}: gradient masks differ");
        };
        near(&y, &dx, of("y"), of("dx"));
        if scale.len() == 1 {
            let learned = scales.detach().set_requires_grad(true);
            let grad_scale = 1.0 / (x.numel() as f32 * *qmax as f32).sqrt();
            let y = native::fake_quant_learned(&x, &learned, *qmin, *qmax, grad_scale).unwrap();
            let got = differentiate(&y, &[&x, &learned]);
            near(&y, &got[0], of("learned_y"), of("learned_dx"));
            // A code that differs by one at a tie changes its term by one; PyTorch sums in FP32.
            let (dscale, expect) = (got[1].double_value(&[0]), of("learned_dscale").double_value(&[0]));
            let most = gradient.abs().sum(Kind::Double).double_value(&[]) * f64::from(grad_scale);
            assert!(
                (dscale - expect).abs() < 1e-4 * expect.abs() + 1e-3 * most,
                "{name}: the scale's gradient is {dscale}, PyTorch's {expect}"
            );
        }
    }
}

#[test]
fn schedules_are_pytorchs() {
    let Some(python) = python() else { return };
    let schedule = Schedule {
        kind: LrScheduler::Cosine,
        lr: 0.4,
        warmup_start_lr: 0.1,
        warmup_steps: 5,
        total_steps: 40,
    };
    let settings = json!({"lr": 0.4, "start": 0.1, "warmup": 5, "total": 40}).to_string();
    let rates: Vec<f64> = serde_json::from_str(&python.run("schedules.py", &[settings.as_ref()])).unwrap();
    assert_eq!(rates.len(), 40);
    for (step, want) in rates.iter().enumerate() {
        assert!((schedule.at(step as u64) - want).abs() < 1e-9, "step {step}");
    }
}
