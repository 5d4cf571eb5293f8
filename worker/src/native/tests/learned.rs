//! The learnable scale: both gradients against FP64 sums.

use super::*;

/// `[sum, sum of magnitudes]` of the terms of the scale's gradient.
pub fn sums(x: &[f32], dy: &[f32], scale: f32, range: [i64; 2]) -> [f64; 2] {
    let terms = x.iter().zip(dy).map(|(x, dy)| f64::from(*dy) * expected(*x, scale, range).by_scale);
    terms.fold([0.0, 0.0], |[sum, most], t| [sum + t, most + t.abs()])
}

/// FP32's rounding of the result, and the order of the sum.
pub fn close(got: f32, [sum, magnitudes]: [f64; 2], grad_scale: f32) -> bool {
    let (want, scale) = (sum * f64::from(grad_scale), f64::from(grad_scale.abs()));
    (f64::from(got) - want).abs() <= want.abs() * 1.2e-7 + magnitudes * scale * 1e-12 + 1e-45
}

#[test]
fn both_gradients_are_those_of_the_paper() {
    for device in devices() {
        for kind in KINDS {
            for (n, scale, range) in [
                (1, 0.02, [-127, 127]),
                (1000, 0.3, [0, 127]),
                (100_003, 0.005, [0, 255]),
                (100_003, 0.01, [-127, 127]),
                (100_003, 1e-7, [-63, 63]),
                (70, -1.0, [-127, 127]),
                (0, 0.1, [0, 127]),
            ] {
                let x = Tensor::from_slice(&random(n, 2.0)).to_kind(kind).to_device(device);
                let x = x.set_requires_grad(true);
                let dy = Tensor::from_slice(&random(n, 1.0)).to_kind(kind).to_device(device).flip([0i64]);
                let learned = scale_on(device, scale).set_requires_grad(true);
                let grad_scale = 1.0 / (n.max(1) as f32 * range[1] as f32).sqrt();
                let y = fake_quant_learned(&x, &learned, range[0], range[1], grad_scale).unwrap();
                let plain = fake_quant(&x, &learned, range[0], range[1], false).unwrap();
                assert!(y.equal(&plain), "{kind:?} {n} {scale}");
                let got = gradients(&y, &dy, &[&x, &learned]);
                let straight = gradients(&plain, &dy, &[&x]);
                assert!(got[0].equal(&straight[0]), "{kind:?} {n} {scale}");
                assert_eq!((got[1].size(), got[1].kind()), (vec![1], Kind::Float));
                let want = sums(&values(&x), &values(&dy), scale, range);
                let by_scale = values(&got[1])[0];
                assert!(close(by_scale, want, grad_scale), "{kind:?} {n} {scale}: {by_scale}, not {want:?}");
            }
        }
    }
}

#[test]
fn order_of_memory_and_threads_do_not_change_the_sum() {
    for device in devices() {
        let x = Tensor::from_slice(&random(8 * 16 * 33 * 31, 2.0)).view([8, 16, 33, 31]).to_device(device);
        let dy = x.flip([0i64]) * 0.37;
        let run = |x: &Tensor| {
            let x = x.detach().set_requires_grad(true);
            let scale = scale_on(device, 0.01).set_requires_grad(true);
            let y = fake_quant_learned(&x, &scale, -127, 127, 0.5).unwrap();
            gradients(&y, &dy, &[&x, &scale])
        };
        let first = run(&x);
        let threads = tch::get_num_threads();
        for n in [1, 2, 3] {
            tch::set_num_threads(n);
            let again = run(&x);
            assert_eq!(values(&again[1])[0].to_bits(), values(&first[1])[0].to_bits(), "{n} threads");
        }
        tch::set_num_threads(threads);
        let last = run(&x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]));
        assert!(last[0].equal(&first[0]));
        assert!(close(values(&last[1])[0], sums(&values(&x), &values(&dy), 0.01, [-127, 127]), 0.5));
    }
}

#[test]
fn channels_learn_scales_of_their_own() {
    for device in devices() {
        for kind in KINDS {
            for shape in [[6i64, 3, 5, 3], [2, 17, 50, 50], [0, 2, 2, 2]] {
                let n = shape.iter().product::<i64>() as usize;
                let x = Tensor::from_slice(&random(n, 2.0)).to_kind(kind).view(shape).to_device(device);
                let dy = x.flip([0i64]);
                let x = x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]).set_requires_grad(true);
                let host: Vec<f32> = (0..shape[0]).map(|c| 0.003 * (c + 1) as f32).collect();
                let scales = Tensor::from_slice(&host).to_device(device).set_requires_grad(true);
                let y = fake_quant_learned_per_channel(&x, &scales, -127, 127, 0.25).unwrap();
                let got = gradients(&y, &dy, &[&x, &scales]);
                assert_eq!(got[1].size(), [shape[0]]);
                let plain = fake_quant_per_channel(&x, &scales, -127, 127, false).unwrap();
                assert!(y.equal(&plain) && got[0].equal(&gradients(&plain, &dy, &[&x])[0]));
                for (c, by_scale) in values(&got[1]).into_iter().enumerate() {
                    let of = |t: &Tensor| values(&t.get(c as i64));
                    let want = sums(&of(&x), &of(&dy), host[c], [-127, 127]);
                    assert!(close(by_scale, want, 0.25), "{kind:?}, channel {c}: {by_scale}, not {want:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_is_seen() {
    for device in devices() {
        let run = |odd: f32| {
            let x = Tensor::from_slice(&[0.5f32, odd, -1.0]).to_device(device).set_requires_grad(true);
            let scale = scale_on(device, 0.1).set_requires_grad(true);
            let (y, seen) = observe_fake_quant_learned(&x, &scale, -127, 127, 1.0).unwrap();
            let got = gradients(&y, &y.ones_like(), &[&x, &scale]);
            (values(&y), values(&seen), values(&got[0]), values(&got[1])[0])
        };
        let (y, seen, dx, by_scale) = run(f32::NAN);
        assert!(y[1].is_nan() && by_scale.is_nan());
        assert_eq!((seen, dx), (vec![1.0, 1.0], vec![1.0, 0.0, 1.0]));
        // Infinity saturates: its part of the gradient is the bound.
        let (y, seen, dx, by_scale) = run(f32::INFINITY);
        assert_eq!(y[1], 127.0 * 0.1f32);
        assert_eq!((seen, dx, by_scale), (vec![1.0, 1.0], vec![1.0, 0.0, 1.0], 127.0));
    }
}

#[test]
fn a_step_alone_can_be_learned() {
    for device in devices() {
        let x = Tensor::from_slice(&[0.26f32, 40.0]).to_device(device);
        let scale = scale_on(device, 0.25).set_requires_grad(true);
        let y = fake_quant_learned(&x, &scale, 0, 127, 2.0).unwrap();
        let got = gradients(&y, &y.ones_like(), &[&scale]);
        let want = 2.0 * (f64::from(1.0 - 0.26f32 / 0.25) + 127.0);
        assert!((f64::from(values(&got[0])[0]) - want).abs() < 1e-4);
        let fixed = fake_quant(&x, &scale, 0, 127, false).unwrap();
        assert!(!fixed.requires_grad(), "a scale that is not learned has no gradient");
    }
}

#[test]
fn a_gradient_that_is_to_be_differentiated_is_refused() {
    let x = Tensor::from_slice(&[0.26f32, 40.0]).set_requires_grad(true);
    let scale = Tensor::from_slice(&[0.25f32]).set_requires_grad(true);
    let of = |y: Tensor, graph| Tensor::f_run_backward(&[y.sum(Kind::Float)], &[&x], graph, graph);
    let clipped = || fake_quant(&x, &scale, 0, 127, false).unwrap();
    let learned = || fake_quant_learned(&x, &scale, 0, 127, 2.0).unwrap();
    for y in [&clipped as &dyn Fn() -> Tensor, &learned] {
        let told = of(y(), true).unwrap_err().to_string();
        assert!(told.contains("differentiated twice") && told.contains("unclipped"), "{told}");
        assert!(of(y(), false).is_ok(), "once it can be");
    }
    assert!(
        of(fake_quant(&x, &scale, 0, 127, true).unwrap(), true).is_ok(),
        "where it passes everywhere it is linear"
    );
}
