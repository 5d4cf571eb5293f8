//! A step whose neighbours run as one against the same step operator by operator, which a watched one is.

use super::*;
use crate::strategy::{Amp, Layout};

/// Loss, gradients, BatchNorm's statistics and ranges after a step from the same weights and images.
fn one_step(name: &str, amp: Amp, qat: Option<Qat>, watched: bool) -> (f64, Vec<Tensor>) {
    let network = models::build(name, [3, 32, 32], 10).unwrap();
    let strategy = Strategy { amp, layout: Layout::Nhwc, qat };
    let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local));
    let mut program = optimizer.minimize(network, CrossEntropy::default()).unwrap();
    let noise = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 12) % 2048) as f32 / 512.0 - 2.0;
    let numbers: Vec<f32> = (0..8 * 3 * 32 * 32).map(noise).collect();
    let images = Tensor::from_slice(&numbers).view([8, 3, 32, 32]);
    let labels = Tensor::from_slice(&[1i64, 3, 5, 7, 0, 2, 4, 6]);
    let microbatch = Microbatch { images: &images, labels: &labels };
    let outcome = match watched {
        true => program.step_watched(&[microbatch], false, Some(&mut |_, _| {})),
        false => program.step(&[microbatch]),
    };
    let mut all: Vec<Tensor> = program.gradients().iter().map(Tensor::copy).collect();
    all.extend([program.weights.buffers.copy(), program.weights.ranges.copy()]);
    (outcome.unwrap().loss, all)
}

#[test]
fn a_step_of_neighbours_as_one_is_a_step_of_each_by_itself() {
    let recipes = [None, Some(Qat::default()), Some(Qat { target: Target::Onnxruntime, ..Qat::default() })];
    for name in ["ResNet20", "MobileNetV2-32px"] {
        for qat in &recipes {
            let run = |watched| one_step(name, Amp::Off, qat.clone(), watched);
            let ((loss, one), (apart_loss, apart)) = (run(false), run(true));
            // A value on the bound between two codes may fall on either side of it.
            let most = if qat.is_some() { 1e-2 } else { 1e-5 };
            assert!((loss - apart_loss).abs() <= most * loss, "{name} {qat:?}: loss {loss}, {apart_loss}");
            assert_eq!(one.len(), apart.len());
            let norm = |t: &Tensor| t.to_kind(Kind::Double).norm().double_value(&[]);
            let (mut off, mut all) = (0.0f64, 0.0f64);
            for (a, b) in one.iter().zip(&apart) {
                off = off.hypot(norm(&(a - b)));
                all = all.hypot(norm(b));
            }
            let most = if qat.is_some() { 0.2 } else { 5e-3 };
            assert!(all > 0.0 && off <= most * all, "{name} {qat:?}: {off:e} of {all:e}");
        }
    }
}
