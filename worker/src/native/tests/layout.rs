//! Memory orders, sizes, channels.

use super::*;

/// The same values in four memory orders.
fn orders(x: &Tensor) -> [(&'static str, Tensor); 4] {
    let [n, c, h, w] = x.size4().map(|(n, c, h, w)| [n, c, h, w]).unwrap();
    let wide = Tensor::full([n, c, h, 2 * w], 9.0, (x.kind(), x.device()));
    let mut every_second = wide.slice(3, 0, 2 * w, 2);
    every_second.copy_(x);
    [
        ("contiguous", x.shallow_clone()),
        ("channels last", x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])),
        ("transposed", x.permute([3, 2, 1, 0]).contiguous().permute([3, 2, 1, 0])),
        ("every second element", every_second),
    ]
}

#[test]
fn memory_order_is_kept_and_does_not_matter() {
    for device in devices() {
        for (kind, shape) in KINDS.into_iter().flat_map(|k| {
            [[3i64, 5, 7, 9], [1, 1, 1, 1], [2, 3, 1, 31], [5, 1, 3, 11], [0, 3, 2, 2]].map(|s| (k, s))
        }) {
            let n = shape.iter().product::<i64>() as usize;
            let make = |amplitude| {
                Tensor::from_slice(&random(n, amplitude)).to_kind(kind).view(shape).to_device(device)
            };
            let (x, dy) = (make(2.0), make(1.0).flip([0i64]));
            let scale = scale_on(device, 0.01);
            let scales: Vec<f32> = (0..shape[0]).map(|c| 0.004 * (c + 1) as f32).collect();
            let scales = Tensor::from_slice(&scales).to_device(device);
            let run = |x: &Tensor, per_channel: bool, dy: &Tensor| {
                let x = x.detach().set_requires_grad(true);
                let y = match per_channel {
                    true => fake_quant_per_channel(&x, &scales, -127, 127, false),
                    false => fake_quant(&x, &scale, -127, 127, false),
                };
                let y = y.unwrap();
                let dx = gradients(&y, dy, &[&x]).remove(0);
                (y, dx)
            };
            for per_channel in [false, true] {
                let (plain, plain_dx) = run(&x, per_channel, &dy);
                for (order, other) in orders(&x) {
                    // Gradients in both orders.
                    for dy in [&dy, &orders(&dy)[1].1] {
                        let (y, dx) = run(&other, per_channel, dy);
                        assert_eq!((y.size(), dx.size()), (shape.to_vec(), shape.to_vec()));
                        assert!(y.equal(&plain) && dx.equal(&plain_dx), "{order} {kind:?} {shape:?}");
                        if order == "channels last" {
                            assert_eq!(y.stride(), other.stride(), "{kind:?} {shape:?} {per_channel}");
                        }
                    }
                    let seen = abs_max(&other).unwrap();
                    assert!(seen.equal(&abs_max(&x).unwrap()), "{order} {kind:?} {shape:?}");
                    let (_, watched) = observe_fake_quant(&other, &scale, -127, 127, false).unwrap();
                    assert!(watched.equal(&seen), "{order} {kind:?} {shape:?}");
                }
            }
        }
    }
}

#[test]
fn every_size_around_the_edges_of_bytes_words_blocks_and_pieces_is_whole() {
    for device in devices() {
        for kind in KINDS {
            for n in (0..70).chain([127, 128, 129, 255, 256, 257, 32_767, 32_768, 32_769, 98_309]) {
                let x = Tensor::from_slice(&random(n, 2.0)).to_kind(kind).to_device(device);
                let x = x.set_requires_grad(true);
                let dy = Tensor::from_slice(&random(n, 1.0)).to_kind(kind).to_device(device);
                let (y, seen) = observe_fake_quant(&x, &scale_on(device, 0.01), -127, 127, false).unwrap();
                let dx = gradients(&y, &dy, &[&x]).remove(0);
                let (x, y, dx, dy) = (values(&x), values(&y), values(&dx), values(&dy));
                for i in 0..n {
                    let want = expected(x[i], 0.01, [-127, 127]);
                    assert_eq!(y[i], rounded(want.y, kind), "{kind:?}: element {i} of {n}");
                    assert_eq!(dx[i], if want.inside { dy[i] } else { 0.0 }, "{kind:?}: element {i} of {n}");
                }
                let most = x.iter().fold(0.0f32, |most, v| most.max(v.abs()));
                assert_eq!(values(&seen), [most, 0.0], "{kind:?}, {n} elements");
            }
        }
    }
}

#[test]
fn channels_have_scales_of_their_own() {
    for device in devices() {
        for (kind, shape) in KINDS.into_iter().flat_map(|k| {
            [[5i64, 3, 3, 3], [1, 1, 1, 1], [7, 2, 5, 13], [0, 3, 3, 3], [3, 0, 3, 3], [2, 33, 32, 32]]
                .map(|s| (k, s))
        }) {
            let n = shape.iter().product::<i64>() as usize;
            let x = Tensor::from_slice(&random(n, 1.5)).to_kind(kind).view(shape).to_device(device);
            let x = x.set_requires_grad(true);
            let scales: Vec<f32> = (0..shape[0]).map(|c| 0.004 * (c + 1) as f32).collect();
            let on_device = Tensor::from_slice(&scales).to_device(device);
            let y = fake_quant_per_channel(&x, &on_device, -127, 127, false).unwrap();
            let dx = gradients(&y, &y.ones_like(), &[&x]).remove(0);
            assert_eq!(dx.size(), shape);
            for c in 0..shape[0] {
                let (x, y, dx) = (values(&x.get(c)), values(&y.get(c)), values(&dx.get(c)));
                for i in 0..x.len() {
                    let want = expected(x[i], scales[c as usize], [-127, 127]);
                    assert_eq!(y[i], rounded(want.y, kind), "{kind:?} {shape:?}");
                    assert_eq!(dx[i], f32::from(u8::from(want.inside)), "{kind:?} {shape:?}");
                }
            }
        }
    }
}
