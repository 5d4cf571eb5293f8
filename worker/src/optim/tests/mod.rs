//! What a program refuses of what its user brings.

mod calibration;
mod clipping;
mod failed;
mod fused;
mod int8;
mod overlap;

use super::*;
use crate::collective::Local;
use crate::models;
use crate::quant::histogram::Histogram;
use crate::quant::scheme::Scheme;
use crate::strategy::{Observer, Qat, ReduceType, Target};
use tch::{Kind, Tensor};

/// Gives one range in calibration and another in training.
struct Gives(f32, f32);

impl RangeObserver for Gives {
    fn wants_histogram(&self) -> bool {
        false
    }

    fn calibrated(&self, _: Scheme, _: &[f32], _: &mut dyn FnMut() -> Histogram) -> f32 {
        self.0
    }

    fn moved(&self, _: f32, _: f32) -> f32 {
        self.1
    }
}

fn program(qat: Option<Qat>, observer: impl RangeObserver + 'static) -> Result<Program, OptimError> {
    let network = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let strategy = Strategy { qat, ..Strategy::default() };
    let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local)).observer(observer);
    optimizer.minimize(network, CrossEntropy::default())
}

fn images() -> Tensor {
    Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu))
}

fn step(program: &mut Program) -> Result<StepOutcome, OptimError> {
    let labels = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
    program.step(&[Microbatch { images: &images(), labels: &labels }])
}

#[test]
fn an_observer_of_ones_own_counts_whatever_the_recipe_names() {
    let qat = Qat { observer: Observer::Percentile, ..Qat::default() };
    let mut program = program(Some(qat), Gives(3.0, 5.0)).unwrap();
    assert!(program.calibrate(Before::Training, &[(0, images())], 1, &|| false).unwrap());
    assert!(program.weights.ranges_host().unwrap().iter().all(|r| *r == Some(3.0)));
    step(&mut program).unwrap();
    assert!(program.weights.ranges_host().unwrap().iter().all(|r| *r == Some(5.0)));
}

#[test]
fn an_observer_without_quantization_or_with_ranges_that_are_none_is_refused() {
    assert!(matches!(program(None, Gives(1.0, 1.0)), Err(OptimError::ObserverWithoutQat)));
    for bad in [f32::NAN, -1.0, f32::INFINITY] {
        let mut calibrating = program(Some(Qat::default()), Gives(bad, 1.0)).unwrap();
        let e =
            calibrating.calibrate(Before::Training, &[(0, images())], 1, &|| false).unwrap_err().to_string();
        assert!(e.contains("`input`") && e.contains("finite and not negative"), "{e}");
        let mut training = program(Some(Qat::default()), Gives(1.0, bad)).unwrap();
        training.calibrate(Before::Training, &[(0, images())], 1, &|| false).unwrap();
        let before = training.weights.flat.copy();
        assert!(matches!(step(&mut training), Err(OptimError::Range { .. })));
        assert!(training.weights.flat.equal(&before), "on error nothing was updated");
    }
}

#[test]
fn a_recipe_out_of_its_range_is_refused() {
    let e = program(Some(Qat { weight_bits: 9, ..Qat::default() }), Gives(1.0, 1.0)).err().unwrap();
    assert!(e.to_string().contains("qat.weight-bits is 9"), "{e}");
}

/// A calibrated program for `target`, its weights and statistics those of seed 1.
fn quantized(target: Target) -> Program {
    let qat = Qat { target, ..Qat::default() };
    let mut program = program(Some(qat), Gives(3.0, 3.0)).unwrap();
    program.calibrate(Before::Training, &[(0, images())], 1, &|| false).unwrap();
    program
}

#[test]
fn a_microbatch_that_nobody_could_read_does_not_count_in_ranges_and_statistics() {
    let x = images();
    let seen = |placed: &[Placed], total| {
        let strategy = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
        let network = models::build("ResNet20", [3, 32, 32], 10).unwrap();
        let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local));
        let mut program = optimizer.minimize(network, CrossEntropy::default()).unwrap();
        assert!(program.calibrate(Before::Training, placed, total, &|| false).unwrap());
        assert!(program.reestimate_batch_norm(placed, total, &|| false).unwrap());
        let statistics = Vec::<f32>::try_from(&program.weights.buffers).unwrap();
        (program.weights.ranges_host().unwrap(), statistics)
    };
    let one = seen(&[(0, x.shallow_clone())], 1);
    assert!(one.0.iter().all(Option::is_some));
    assert_eq!(one, seen(&[(7, x.shallow_clone())], 10));
}

#[test]
fn microbatches_for_statistics_have_a_place_of_their_own_and_there_is_one() {
    let x = images();
    for (placed, total, words) in [
        (vec![(3, x.shallow_clone())], 3, "position 3 is not among 3"),
        (vec![(1, x.shallow_clone()), (1, x.shallow_clone())], 3, "position 1 is given twice"),
        (vec![(0, x.shallow_clone()), (1, x.shallow_clone())], 1, "at most 1 are local"),
        (vec![], 2, "no image of the 2 microbatches"),
    ] {
        let mut program = program(Some(Qat::default()), Gives(3.0, 3.0)).unwrap();
        let told = program.calibrate(Before::Training, &placed, total, &|| false).unwrap_err().to_string();
        assert!(told.contains(words), "{told}");
        let told = program.reestimate_batch_norm(&placed, total, &|| false).unwrap_err().to_string();
        assert!(told.contains(words) || told.contains("range"), "{told}");
    }
}

#[test]
fn statistics_are_estimated_on_the_network_that_is_trained_whatever_its_target_deploys() {
    // The running statistics that integer biases would come from are the ones that are replaced: what they were before
    // changes nothing.
    let x = images();
    let after = |before: f64| {
        let mut program = quantized(Target::Onnxruntime);
        let _ = program.weights.buffers.f_mul_scalar_(before).unwrap();
        assert!(program.reestimate_batch_norm(&[(0, x.shallow_clone())], 1, &|| false).unwrap());
        Vec::<f32>::try_from(&program.weights.buffers).unwrap()
    };
    assert_eq!(after(1.0), after(3.0));
}

fn preprocessing() -> crate::data::Preprocessing {
    crate::data::Preprocessing::of(&crate::config::DataSettings::default())
}

/// A program that trains `network`, initialised.
fn float(network: crate::graph::Graph, passes: Passes) -> Program {
    let optimizer =
        DistributedOptimizer::new(Sgd::default(), Strategy::default(), Box::new(Local)).passes(passes);
    optimizer.minimize(network, CrossEntropy::default()).unwrap()
}

fn network() -> crate::graph::Graph {
    models::build("ResNet20", [3, 32, 32], 10).unwrap()
}

/// The same names and shapes, and another function: the first block's sum is not rectified.
struct Linear;

impl GraphPass for Linear {
    fn name(&self) -> &str {
        "linear"
    }

    fn what(&self) -> &str {
        "leaves out a ReLU"
    }

    fn apply(
        &self,
        mut graph: crate::graph::Graph,
        _: &Strategy,
    ) -> Result<crate::graph::Graph, crate::graph::GraphError> {
        let id = graph.find("layer1.0.relu").unwrap();
        let sum = graph.node(id).inputs[0];
        graph.reroute(id, sum);
        Ok(graph)
    }
}

#[test]
fn a_program_goes_on_from_a_checkpoint_of_its_own_graph_passes_and_strategy_alone() {
    use crate::checkpoint::{Part, Same};
    let classes: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    let of = |program: &Program| program.snapshot(classes.clone(), preprocessing()).unwrap();
    let own = || Passes::default().before(crate::passes::Pass::DropDead, Linear);
    let differs = |program: &mut Program, snapshot, same| match program.restore_as(snapshot, same) {
        Err(RestoreError::Differs(difference)) => Some(difference.part),
        other => {
            other.unwrap();
            None
        }
    };
    let plain = of(&float(network(), Passes::default()));
    let mut rewired = network();
    let at = rewired.find("layer1.0.relu").unwrap();
    let sum = rewired.node(at).inputs[0];
    rewired.reroute(at, sum);
    for (mut other, want) in [
        (float(rewired, Passes::default()), Part::Graph),
        (float(network(), own()), Part::Passes),
        (quantized(Target::Openvino), Part::Quantization),
    ] {
        let _ = other.weights.flat.f_add_scalar_(1.0).unwrap();
        let before = other.weights.flat.copy();
        assert_eq!(differs(&mut other, &plain, Same::Meaning), Some(want.clone()));
        assert_eq!(differs(&mut other, &plain, Same::Everything), Some(want));
        assert!(other.weights.flat.equal(&before), "nothing was taken");
    }
    let int8 = of(&quantized(Target::Openvino));
    assert_eq!(differs(&mut quantized(Target::Tensorrt), &int8, Same::Meaning), Some(Part::Target));
    let qat = Qat { observer_momentum: 0.5, ..Qat::default() };
    let mut slower = program(Some(qat), Gives(3.0, 3.0)).unwrap();
    let momentum = Part::Strategy("qat.observer-momentum".into());
    assert_eq!(differs(&mut slower, &int8, Same::Everything), Some(momentum));
    assert_eq!(differs(&mut slower, &int8, Same::Meaning), None);
    // With the same passes it is the same program.
    let mut again = float(network(), own());
    assert_eq!(differs(&mut again, &of(&float(network(), own())), Same::Everything), None);
}

#[test]
fn a_teacher_is_evaluated_as_its_own_checkpoint_says() {
    use crate::strategy::Distillation;
    let classes: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    let int8 = quantized(Target::Onnxruntime);
    let snapshot = int8.snapshot(classes.clone(), preprocessing()).unwrap();
    let run = Strategy { qat: Some(Qat::default()), ..Strategy::default() };
    let teacher = |snapshot: &crate::checkpoint::Snapshot, passes: &Passes| {
        Teacher::of_checkpoint(snapshot, passes, &run, Device::Cpu)
    };
    // A network that was trained with quantization is followed with it.
    let logits = teacher(&snapshot, &Passes::default()).unwrap().logits(&images()).unwrap();
    let x = images();
    let of = |mode| int8.evaluator(mode).unwrap().logits(&x).unwrap();
    let followed = teacher(&snapshot, &Passes::default()).unwrap().logits(&x).unwrap();
    assert!(followed.equal(&of(crate::exec::Mode::evaluation(true))));
    assert!(!followed.equal(&of(crate::exec::Mode::evaluation(false))) && logits.size() == [4, 10]);
    // One with passes of a program's own wants them.
    let own = Passes::default().before(crate::passes::Pass::DropDead, Linear);
    let linear = float(network(), own.clone());
    let of_linear = linear.snapshot(classes, preprocessing()).unwrap();
    let refused = teacher(&of_linear, &Passes::default()).err().unwrap().to_string();
    assert!(refused.contains("linear") && refused.contains("its passes"), "{refused}");
    let followed = teacher(&of_linear, &own).unwrap().logits(&x).unwrap();
    assert!(followed.equal(&linear.evaluator(crate::exec::Mode::EVAL).unwrap().logits(&x).unwrap()));
    // Another network is followed by one of as many classes, on the same images.
    let qat = Qat { distillation: Some(Distillation { weight: 0.5, temperature: 4.0 }), ..Qat::default() };
    let larger = |classes| {
        let graph = models::build("ResNet18", [3, 32, 32], classes).unwrap();
        let teacher = float(graph, Passes::default());
        let names = (0..classes).map(|i| i.to_string()).collect();
        let snapshot = teacher.snapshot(names, preprocessing()).unwrap();
        Teacher::of_checkpoint(&snapshot, &Passes::default(), &run, Device::Cpu).unwrap()
    };
    let mut student = program(Some(qat), Gives(3.0, 3.0)).unwrap();
    student.calibrate(Before::Training, &[(0, images())], 1, &|| false).unwrap();
    assert!(matches!(student.follow(larger(7)), Err(OptimError::TeacherTask { .. })));
    student.follow(larger(10)).unwrap();
    assert!(step(&mut student).unwrap().loss.is_finite());
}

#[test]
fn a_program_begins_with_the_weights_of_its_seed() {
    let of = |seed, zero_gamma| {
        let optimizer = DistributedOptimizer::new(Sgd::default(), Strategy::default(), Box::new(Local))
            .seed(seed)
            .zero_gamma(zero_gamma);
        optimizer.minimize(network(), CrossEntropy::default()).unwrap().weights
    };
    let one = of(7, false);
    let mut other = crate::exec::Weights::zeros(&network(), Device::Cpu).unwrap();
    crate::exec::initialise(&mut other, 7, false).unwrap();
    assert!(one.flat.equal(&other.flat) && one.flat.abs().max().double_value(&[]) > 0.0);
    assert!(!one.flat.equal(&of(8, false).flat));
    let gamma = |weights: &crate::exec::Weights| weights.get("layer1.0.bn2.weight").unwrap();
    assert_eq!(gamma(&one).double_value(&[0]), 1.0);
    assert_eq!(gamma(&of(7, true)).double_value(&[0]), 0.0);
}

/// A program of two microbatches a step.
fn of_two(qat: Qat) -> Program {
    let strategy = Strategy { qat: Some(qat), ..Strategy::default() };
    let schedule = schedule::Schedule { total_steps: 4, ..schedule::Schedule::constant(0.01) };
    DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local))
        .sharing(Sharing { microbatches: 2, bucket_bytes: 1 << 20, reduce_type: ReduceType::Fp32 })
        .schedule(schedule)
        .minimize(network(), CrossEntropy::default())
        .unwrap()
}

#[test]
fn a_step_calibrates_what_is_not_known_on_as_many_of_its_images_as_the_recipe_says() {
    let labels = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
    let (quiet, loud) = (images(), images() * 9.0);
    let batch = [&quiet, &loud].map(|images| Microbatch { images, labels: &labels });
    // A range that is held is what calibration has made it.
    let after = |calibration_images, placed: &[Placed]| {
        let observer = Observer::Percentile;
        let mut program = of_two(Qat { calibration_images, observer, ..Qat::default() });
        if !placed.is_empty() {
            assert!(program.calibrate(Before::Training, placed, 2, &|| false).unwrap());
        }
        program.step(&batch).unwrap();
        program.weights.ranges_host().unwrap()
    };
    let placed = [(0, quiet.shallow_clone()), (1, loud.shallow_clone())];
    assert_eq!(after(512, &[]), after(512, &placed));
    assert_eq!(after(4, &[]), after(4, &placed[..1]));
    assert_ne!(after(512, &[]), after(4, &[]));
    let mut none = of_two(Qat { calibration_images: 0, ..Qat::default() });
    let told = none.step(&batch).unwrap_err().to_string();
    assert!(told.contains("Qat::calibration_images is 0"), "{told}");
}

#[test]
fn statistics_that_a_recipe_wants_anew_are_taken_or_the_step_says_so() {
    use crate::strategy::Freeze;
    let qat = Qat { freeze_bn: Freeze::Step(1), bn_images: 8, ..Qat::default() };
    let mut program = of_two(qat);
    let labels = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
    let x = images();
    let batch = || [&x, &x].map(|images| Microbatch { images, labels: &labels });
    assert_eq!(program.due_batch_norm(false), None);
    program.step(&batch()).unwrap();
    assert_eq!(program.due_batch_norm(false), Some(8));
    let before = program.weights.flat.copy();
    let told = program.step(&batch()).unwrap_err();
    assert!(matches!(told, OptimError::StatisticsDue { images: 8, step: 1 }), "{told}");
    assert!(program.weights.flat.equal(&before), "on error nothing was updated");
    assert!(program.reestimate_batch_norm(&[(0, x.shallow_clone())], 2, &|| false).unwrap());
    program.step(&batch()).unwrap();
    assert_eq!((program.global_step, program.due_batch_norm(false)), (2, None));
    assert_eq!(program.due_batch_norm(true), None);
}

#[test]
fn a_recipe_s_images_are_those_of_a_data_set_where_there_is_one() {
    use crate::config::RunConfig;
    use crate::data::{DataConfig, Dataset, Geometry, Sharding, Split, Wanted};
    let settings = RunConfig::default().with(|c| {
        c.data.image_root = "digits".into();
        c.model.image_shape = [3, 32, 32];
        c.data.crop_size = 32;
        c.data.resize_short = 32;
    });
    let train = std::sync::Arc::new(
        Dataset::open(Split::Train, &Wanted::of(&settings.model, &settings.data)).unwrap(),
    );
    let data = DataConfig {
        geometry: Geometry::new(&settings.data, 3),
        sharding: Sharding::alone(8),
        seed: 3,
        threads: 1,
        max_corrupt: None,
    };
    let qat = |calibration_images| {
        let bn_images = 16;
        Qat { calibration_images, bn_images, freeze_bn: crate::strategy::Freeze::Step(0), ..Qat::default() }
    };
    let mut program = of_two(qat(20));
    assert_eq!(program.calibrate_on(Before::Training, &train, &data, &|| true).unwrap(), Statistics::Stopped);
    let taken = |images| Statistics::Taken { images };
    assert_eq!(program.calibrate_on(Before::Training, &train, &data, &|| false).unwrap(), taken(24));
    assert_eq!(program.calibrate_on(Before::Training, &train, &data, &|| false).unwrap(), Statistics::NotDue);
    let again =
        |program: &mut Program| program.reestimate_batch_norm_on(&train, &data, false, &|| false).unwrap();
    let before = program.weights.buffers.copy();
    assert_eq!(again(&mut program), taken(16));
    assert!(!program.weights.buffers.equal(&before));
    let mut none = of_two(qat(0));
    assert!(matches!(
        none.calibrate_on(Before::Training, &train, &data, &|| false),
        Err(OptimError::NoCalibration { .. })
    ));
}

#[test]
fn a_file_says_its_classes_and_preprocessing_where_a_program_is_told_them() {
    use crate::data::Preprocessing;
    use crate::export::{Profile, Task, TaskError};
    let mut program = quantized(Target::Onnxruntime);
    step(&mut program).unwrap();
    let preprocessing = Preprocessing { crop_size: 32, ..preprocessing() };
    let class_names: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
    let task = Task { class_names: class_names.clone(), preprocessing: preprocessing.clone() };
    let entries = |task: Option<&Task>| {
        let props = program.deployed(Profile::Onnxruntime, task).unwrap().model.metadata_props;
        let entry =
            |e: &crate::export::onnx::StringStringEntryProto| (e.key().to_string(), e.value().to_string());
        props.iter().map(entry).collect::<std::collections::BTreeMap<_, _>>()
    };
    let told = entries(Some(&task));
    let names: Vec<String> = serde_json::from_str(&told["octrain.classes"]).unwrap();
    assert_eq!((names, told["octrain.model"].as_str()), (class_names, "ResNet20"));
    assert_eq!(Preprocessing::read(&told["octrain.preprocessing"]), Ok(preprocessing.clone()));
    let strategy: Strategy = serde_json::from_str(&told["octrain.strategy"]).unwrap();
    assert_eq!(&strategy, program.strategy());
    assert!(told["octrain.position"].contains("\"global-step\":1"), "{told:?}");
    let silent = entries(None);
    assert!(!silent.contains_key("octrain.classes") && silent.contains_key("octrain.scales"));
    // What is not of this network is refused.
    let refused = |task: &Task| match program.deployed(Profile::Fp32, Some(task)) {
        Err(ProgramExportError::Task(e)) => e,
        other => panic!("{:?}", other.err()),
    };
    let few = Task { class_names: vec!["a".into()], ..task.clone() };
    assert_eq!(refused(&few), TaskError::Classes { named: 1, outputs: 10 });
    let large = Task { preprocessing: Preprocessing { crop_size: 64, ..preprocessing }, ..task };
    assert_eq!(refused(&large), TaskError::Crop { crop: 64, shape: vec![3, 32, 32] });
}

#[test]
fn a_channel_whose_bias_does_not_fit_int32_is_evaluated_with_the_weights_of_its_file() {
    use crate::exec::{Mode, Prepared};
    use crate::export::fold;
    use crate::quant::fold::MAX_BIAS_CODE;
    let program = quantized(Target::Onnxruntime);
    let strategy = program.strategy().deployed(Some(Target::Onnxruntime)).unwrap();
    let graph = program.source.graph_for(&strategy, crate::strategy::Purpose::Export).unwrap();
    let layer = graph.node(graph.find("layer1.0.conv1").unwrap()).op.layer().unwrap();
    assert!(layer.integer_bias);
    let conv = program.graph().node(program.graph().find("layer1.0.conv1").unwrap());
    let quantizer = program.graph().quantizer_behind(conv.inputs[0]).unwrap();
    let index = program.weights.layout.quantizer_index(&quantizer.name).unwrap();
    let input = program.weights.scales().unwrap().double_value(&[index as i64]) as f32;
    let filed = |input| fold(&program.weights.to_state().unwrap(), layer, 16, input).unwrap();

    // Three times the largest bias that fits.
    let plain = filed(None);
    let largest = f64::from(input) * f64::from(plain.scales[3]) * f64::from(MAX_BIAS_CODE);
    let _ = program.weights.get("layer1.0.bn1.bias").unwrap().get(3).f_fill_(3.0 * largest).unwrap();
    let file = filed(Some(input));
    let raised = file.scales[3] / plain.scales[3];
    assert!((raised - 3.0).abs() < 1e-3 && file.scales[4] == plain.scales[4], "{raised}");
    let codes = &file.codes[3 * 144..4 * 144];
    assert!(codes.iter().any(|q| q.abs() == 42), "{codes:?}");

    let prepared = Prepared::new(program.graph(), &program.weights, Mode::EVAL, false).unwrap();
    let evaluated = |name: &str| {
        let i = program.weights.layout.trainable_index(name).unwrap();
        Vec::<f32>::try_from(&prepared.leaves[i].contiguous().view([-1])).unwrap()
    };
    let (weights, shifts) = (evaluated("layer1.0.conv1.weight"), evaluated("layer1.0.bn1.bias"));
    let state = program.weights.to_state().unwrap();
    let norm = layer.folded.as_ref().unwrap();
    let [gamma, _, mean, var] = norm.names().map(|name| &state[name].data);
    for c in 0..16 {
        let factor = f64::from(gamma[c]) / (f64::from(var[c]) + norm.eps).sqrt();
        for (code, weight) in file.codes.iter().zip(&weights).skip(c * 144).take(144) {
            let deployed = f64::from(*code) * f64::from(file.scales[c]);
            let weight = f64::from(*weight) * factor;
            assert!((deployed - weight).abs() <= 1e-6 * deployed.abs(), "{c}: {deployed} {weight}");
        }
        let bias = file.integer_bias[c].value();
        let shift = f64::from(shifts[c]) - f64::from(mean[c]) * factor;
        assert!((bias - shift).abs() <= 1e-6 * bias.abs(), "{c}: {bias} {shift}");
    }
}
