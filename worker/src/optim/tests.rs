//! What a program refuses of what its user brings.

use super::*;
use crate::collective::Local;
use crate::models;
use crate::quant::histogram::Histogram;
use crate::strategy::{Observer, Qat};
use tch::{Kind, Tensor};

/// Gives one range in calibration and another in training.
struct Gives(f32, f32);

impl RangeObserver for Gives {
    fn wants_histogram(&self) -> bool {
        false
    }

    fn calibrated(&self, _: &[f32], _: &mut dyn FnMut() -> Histogram) -> f32 {
        self.0
    }

    fn moved(&self, _: f32, _: f32) -> f32 {
        self.1
    }
}

fn program(qat: Option<Qat>, observer: Gives) -> Result<Program, OptimError> {
    let network = models::build("ResNet20", [3, 32, 32], 10).unwrap();
    let strategy = Strategy { qat, ..Strategy::default() };
    let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local)).observer(observer);
    let mut program = optimizer.minimize(network, CrossEntropy::default())?;
    crate::exec::initialise(&mut program.weights, 1, false)?;
    Ok(program)
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
    assert!(program.calibrate(&[(0, images())], 1, &|| false).unwrap());
    assert!(program.weights.ranges_host().unwrap().iter().all(|r| *r == Some(3.0)));
    step(&mut program).unwrap();
    assert!(program.weights.ranges_host().unwrap().iter().all(|r| *r == Some(5.0)));
}

#[test]
fn an_observer_without_quantization_or_with_ranges_that_are_none_is_refused() {
    assert!(matches!(program(None, Gives(1.0, 1.0)), Err(OptimError::ObserverWithoutQat)));
    for bad in [f32::NAN, -1.0, f32::INFINITY] {
        let mut calibrating = program(Some(Qat::default()), Gives(bad, 1.0)).unwrap();
        let e = calibrating.calibrate(&[(0, images())], 1, &|| false).unwrap_err().to_string();
        assert!(e.contains("`input`") && e.contains("finite and not negative"), "{e}");
        let mut training = program(Some(Qat::default()), Gives(1.0, bad)).unwrap();
        training.calibrate(&[(0, images())], 1, &|| false).unwrap();
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
fn quantized(target: crate::strategy::Target) -> Program {
    let qat = Qat { target, ..Qat::default() };
    let mut program = program(Some(qat), Gives(3.0, 3.0)).unwrap();
    program.calibrate(&[(0, images())], 1, &|| false).unwrap();
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
        crate::exec::initialise(&mut program.weights, 1, false).unwrap();
        assert!(program.calibrate(placed, total, &|| false).unwrap());
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
        let told = program.calibrate(&placed, total, &|| false).unwrap_err().to_string();
        assert!(told.contains(words), "{told}");
        let told = program.reestimate_batch_norm(&placed, total, &|| false).unwrap_err().to_string();
        assert!(told.contains(words) || told.contains("range"), "{told}");
    }
}

#[test]
fn statistics_are_estimated_on_the_network_that_is_trained_whatever_its_target_deploys() {
    use crate::strategy::Target;
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
