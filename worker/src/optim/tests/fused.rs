//! A step whose neighbours run as one against the same step operator by operator, which a watched one is.

use super::*;
use crate::strategy::Layout;

/// Loss, gradients, BatchNorm's statistics and ranges after a step from the same weights and images, these times `factor`.
fn one_step(name: &str, qat: Option<Qat>, watched: bool, factor: f64) -> (f64, Vec<Tensor>) {
    let network = models::build(name, [3, 32, 32], 10).unwrap();
    let strategy = Strategy { layout: Layout::Nhwc, qat, ..Strategy::default() };
    let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local));
    let mut program = optimizer.minimize(network, CrossEntropy::default()).unwrap();
    let noise = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 12) % 2048) as f32 / 512.0 - 2.0;
    let numbers: Vec<f32> = (0..8 * 3 * 32 * 32).map(noise).collect();
    let images = Tensor::from_slice(&numbers).view([8, 3, 32, 32]) * factor;
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

/// Norm of all differences, as a part of the norm of `b`.
fn apart(a: &[Tensor], b: &[Tensor]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |t: Tensor| t.to_kind(Kind::Double).norm().double_value(&[]);
    let off = a.iter().zip(b).fold(0.0, |sum: f64, (a, b)| sum.hypot(norm(a - b)));
    let all = b.iter().fold(0.0, |sum: f64, b| sum.hypot(norm(b.copy())));
    assert!(all > 0.0);
    off / all
}

#[test]
fn a_step_of_neighbours_as_one_is_a_step_of_each_by_itself() {
    let recipes = [None, Some(Qat::default()), Some(Qat { target: Target::Onnxruntime, ..Qat::default() })];
    for name in ["ResNet20", "MobileNetV2-32px"] {
        for qat in &recipes {
            let run = |watched, images| one_step(name, qat.clone(), watched, images);
            let ((loss, one), (other_loss, other)) = (run(false, 1.0), run(true, 1.0));
            // Values on a bound between two codes, or at 0, fall on either side of it, and there are more of them layer by
            // layer. How many that are is seen from images that differ in the last bits.
            let (moved_loss, moved) = run(true, 1.0 + 1e-6);
            let (off, usual) = (apart(&one, &other), apart(&moved, &other));
            // One value that falls otherwise is enough.
            let one_value = if qat.is_some() { 0.1 } else { 5e-3 };
            assert!(
                off <= 3.0 * usual + one_value,
                "{name} {qat:?}: {off:e}, and {usual:e} by other last bits"
            );
            let (off, usual) = ((loss - other_loss).abs(), (moved_loss - other_loss).abs());
            let most = if qat.is_some() { 2e-2 } else { 1e-4 };
            assert!(
                off <= 5.0 * usual + most * loss,
                "{name} {qat:?}: loss {loss}, {other_loss}, {moved_loss}"
            );
        }
    }
}
