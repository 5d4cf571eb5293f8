//! By which statistics BatchNorm normalises while ranges are calibrated.

use super::*;
use crate::graph::ParamKind;
use crate::strategy::{Freeze, Layout};

/// A program whose running variances are `variance`, which its images do not have.
fn of_variance(qat: Qat, variance: f64) -> Program {
    let strategy = Strategy { qat: Some(qat), ..Strategy::default() };
    let network = models::build("MobileNetV2-32px", [3, 32, 32], 10).unwrap();
    let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local));
    let program = optimizer.minimize(network, CrossEntropy::default()).unwrap();
    let buffers = program.weights.layout.buffers.clone();
    for slot in buffers.iter().filter(|slot| slot.kind == ParamKind::RunningVar) {
        let _ = program.weights.buffers.narrow(0, slot.offset, slot.len).fill_(variance);
    }
    program
}

fn ranges(program: &mut Program, before: Before, images: &Tensor) -> Vec<f32> {
    let statistics = program.weights.buffers.copy();
    assert!(program.calibrate(before, &[(0, images.shallow_clone())], 1, &|| false).unwrap());
    assert!(
        program.weights.buffers.equal(&statistics),
        "calibration leaves the running statistics as they are"
    );
    program.weights.ranges_host().unwrap().into_iter().map(Option::unwrap).collect()
}

#[test]
fn before_training_running_statistics_that_steps_do_not_take_move_no_range() {
    let x = images();
    for observer in [Observer::MovingAverage, Observer::Percentile] {
        let found = |variance, before| {
            let qat = Qat { observer, ..Qat::default() };
            ranges(&mut of_variance(qat, variance), before, &x)
        };
        let trained = found(1.0, Before::Training);
        assert_eq!(trained, found(1e6, Before::Training));
        // Each BatchNorm would leave a thousandth of what it reads.
        let deployed = found(1e6, Before::Deployment);
        assert!(deployed.iter().any(|range| *range < 1e-6), "{deployed:?}");
        assert!(trained.iter().all(|range| *range > 1e-3), "{trained:?}");
    }
}

#[test]
fn before_training_with_frozen_statistics_those_are_what_it_sees() {
    let x = images();
    let frozen = || of_variance(Qat { freeze_bn: Freeze::Step(0), ..Qat::default() }, 4.0);
    let trained = ranges(&mut frozen(), Before::Training, &x);
    assert_eq!(trained, ranges(&mut frozen(), Before::Deployment, &x));
    let by_batch = ranges(&mut of_variance(Qat::default(), 4.0), Before::Training, &x);
    assert_ne!(trained, by_batch);
    // Where they are to be estimated anew before they freeze, those that are replaced count for nothing.
    let anew = Qat { freeze_bn: Freeze::Step(0), bn_images: 4, ..Qat::default() };
    assert_eq!(by_batch, ranges(&mut of_variance(anew, 4.0), Before::Training, &x));
}

#[test]
fn a_step_behind_a_calibration_for_training_has_finite_gradients_whatever_the_running_statistics() {
    let mut program = of_variance(Qat::default(), 1e6);
    let norm = step(&mut program).unwrap().grad_norm;
    assert!(norm.is_finite() && norm > 0.0, "{norm}");
}

#[test]
fn a_microbatch_with_one_value_a_channel_is_refused_and_the_layer_named() {
    let network = models::build("MobileNetV2", [3, 32, 32], 10).unwrap();
    for qat in [None, Some(Qat::default())] {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let strategy = Strategy { qat: qat.clone(), layout, ..Strategy::default() };
            let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local));
            let mut program = optimizer.minimize(network.clone(), CrossEntropy::default()).unwrap();
            let weights = program.weights.flat.copy();
            let (one, label) = (images().narrow(0, 0, 1), Tensor::zeros([1], (Kind::Int64, Device::Cpu)));
            let told = program.step(&[Microbatch { images: &one, labels: &label }]).unwrap_err().to_string();
            assert!(told.contains("one value a channel") && told.contains("features.14.conv.1.1"), "{told}");
            assert!(program.weights.flat.equal(&weights));
            step(&mut program).unwrap();
        }
    }
}
