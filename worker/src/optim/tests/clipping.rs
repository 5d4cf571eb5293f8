//! Clipped gradients, with and without a loss scale, learned scales among them.

use super::*;

#[test]
fn a_gradient_is_clipped_as_it_is_without_its_loss_scale_and_learned_scales_with_the_weights() {
    // At ten times that a range may be moved past 0, where it stays.
    const RATE: f64 = 0.1;
    let labels = Tensor::zeros([4], (Kind::Int64, Device::Cpu));
    let x = images();
    let ranges = Some(Qat { learn_scales: true, ..Qat::default() });
    // What a step makes of weights and ranges, and the norm of its gradient.
    let step = |loss_scale, clip, rule: Box<dyn UpdateRule>| {
        let strategy = Strategy { qat: ranges.clone(), ..Strategy::default() };
        let optimizer = DistributedOptimizer::new(rule, strategy, Box::new(Local))
            .loss_scale(loss_scale)
            .clip_norm(clip)
            .schedule(schedule::Schedule::constant(RATE));
        let mut program = optimizer.minimize(network(), CrossEntropy::default()).unwrap();
        assert!(program.calibrate(Before::Training, &[(0, x.shallow_clone())], 1, &|| false).unwrap());
        let before = [program.weights.flat.copy(), program.weights.ranges.copy()];
        let norm = program.step(&[Microbatch { images: &x, labels: &labels }]).unwrap().grad_norm;
        let moved = [&program.weights.flat - &before[0], &program.weights.ranges - &before[1]];
        (norm, moved)
    };
    let plain = || -> Box<dyn UpdateRule> {
        Box::new(Sgd { momentum: 0.0, nesterov: false, weight_decay: WeightDecay::default() })
    };
    let (norm, free) = step(LossScale::Off, None, plain());
    // What moves does so by rounding, too, which is much of a scale's move: by half a last bit of what is moved (below 16 here), eight
    // times where the move is an eighth.
    let rounding = 8.0 * 16.0 * f64::from(f32::EPSILON);
    let near = |a: &Tensor, b: &Tensor| {
        let largest = b.abs().max().double_value(&[]);
        let off = (a - b).abs().max().double_value(&[]);
        largest > 0.0 && off < 0.02 * largest + rounding
    };
    let (same_norm, clipped) = step(LossScale::Off, Some(norm / 8.0), plain());
    assert_eq!(same_norm, norm);
    assert!(clipped.iter().zip(&free).all(|(clipped, free)| near(&(clipped * 8.0), free)));
    let (scaled_norm, scaled) = step(LossScale::Static(1024.0), Some(norm / 8.0), plain());
    assert!((scaled_norm - norm).abs() < 1e-6 * norm);
    assert!(scaled.iter().zip(&clipped).all(|(scaled, clipped)| near(scaled, clipped)));
    // Shorter than is allowed, it is left alone.
    assert!(step(LossScale::Off, Some(2.0 * norm), plain()).1.iter().zip(&free).all(|(a, b)| a.equal(b)));
    // The same of AdamW, whose step hardly depends on the gradient's length.
    let adamw = |clip| step(LossScale::Static(64.0), clip, Box::<AdamW>::default()).1;
    assert!(adamw(Some(norm / 2.0))[1].abs().max().double_value(&[]) > 0.0);
}
