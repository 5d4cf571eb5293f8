//! The operator against plain arithmetic in Rust.

use super::*;
use crate::quant::scheme::code;
use tch::{Device, Kind};

fn nasty() -> Vec<f32> {
    let mut x = vec![
        0.0,
        -0.0,
        f32::from_bits(1),
        1e-38,
        -1e-7,
        0.5,
        1.5,
        2.5,
        -0.5,
        1e30,
        -1e30,
        f32::MAX,
        f32::MIN,
    ];
    let mut state = 1u32;
    for _ in 0..70_001 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.push((state as f32 / u32::MAX as f32 - 0.5) * 6.0);
    }
    x
}

fn values(t: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(&t.to_kind(Kind::Float).contiguous().flatten(0, -1)).unwrap()
}

#[test]
fn values_and_gradients_are_those_of_the_scheme_in_every_type() {
    let x = nasty();
    for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
        for (step, qmin) in [(0.013f32, -127), (0.02, 0), (1e-30, -127), (1e30, -127)] {
            let t = Tensor::from_slice(&x).to_kind(kind).set_requires_grad(true);
            let y = fake_quant(&t, &Tensor::from_slice(&[step]), qmin, 127, false).unwrap();
            assert_eq!(y.kind(), kind);
            let dx = Tensor::run_backward(&[y.sum(Kind::Float)], &[&t], false, false).remove(0);
            let exact = |v: f32| values(&Tensor::from_slice(&[v]).to_kind(kind))[0];
            for ((x, y), dx) in values(&t.detach()).iter().zip(values(&y)).zip(values(&dx)) {
                if x.is_finite() {
                    assert_eq!(
                        y,
                        exact(code(*x, step, qmin) as f32 * step),
                        "{kind:?} x {x:e} step {step:e}"
                    );
                }
                let q = (x / step).round_ties_even();
                assert_eq!(dx != 0.0, q >= qmin as f32 && q <= 127.0, "{kind:?} x {x:e} step {step:e}");
            }
        }
    }
}

#[test]
fn nan_stays_nan_and_has_no_gradient() {
    let t = Tensor::from_slice(&[f32::NAN, f32::INFINITY, 1.0]).set_requires_grad(true);
    let y = fake_quant(&t, &Tensor::from_slice(&[0.5f32]), -127, 127, false).unwrap();
    let dx = Tensor::run_backward(&[y.sum(Kind::Float)], &[&t], false, false).remove(0);
    let y = values(&y);
    assert!(y[0].is_nan() && y[1] == 63.5 && y[2] == 1.0);
    assert_eq!(values(&dx), [0.0, 0.0, 1.0]);
    let y = fake_quant(&t, &Tensor::from_slice(&[0.5f32]), -127, 127, true).unwrap();
    let dx = Tensor::run_backward(&[y.sum(Kind::Float)], &[&t], false, false).remove(0);
    assert_eq!(values(&dx), [1.0, 1.0, 1.0]);
}

#[test]
fn memory_order_is_kept_and_does_not_matter() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let x = Tensor::randn([3, 5, 7, 9], (Kind::Float, Device::Cpu)).to_kind(kind);
        let last = x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]).set_requires_grad(true);
        let step = Tensor::from_slice(&[0.01f32]);
        let plain = fake_quant(&x, &step, -127, 127, false).unwrap();
        let y = fake_quant(&last, &step, -127, 127, false).unwrap();
        assert_eq!(y.stride(), last.stride());
        assert!(y.equal(&plain));
        // A gradient in the other order.
        let dy = Tensor::randn([3, 5, 7, 9], (Kind::Float, Device::Cpu)).to_kind(kind);
        let dx = Tensor::run_backward(&[(&y * &dy).sum(Kind::Float)], &[&last], false, false).remove(0);
        let inside = x.to_kind(Kind::Float).abs().le(1.27 + 0.005 - 1e-4);
        let clear = x.to_kind(Kind::Float).abs().ge(1.27 + 0.005 + 1e-2).logical_or(&inside);
        let want = &dy * inside.to_kind(kind);
        let off = (&dx - &want).abs().gt(0.0).logical_and(&clear).sum(Kind::Int64).int64_value(&[]);
        assert_eq!(off, 0);
    }
}

#[test]
fn channels_have_steps_of_their_own_and_odd_sizes_are_whole() {
    for shape in [[5i64, 3, 3, 3], [1, 1, 1, 1], [7, 2, 5, 13], [0, 3, 3, 3]] {
        let x = Tensor::randn(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let steps: Vec<f32> = (0..shape[0]).map(|c| 0.004 * (c + 1) as f32).collect();
        let y = fake_quant_per_channel(&x, &Tensor::from_slice(&steps), -127, 127, false).unwrap();
        let dx = Tensor::run_backward(&[y.sum(Kind::Float)], &[&x], false, false).remove(0);
        assert_eq!(dx.size(), shape);
        for c in 0..shape[0] {
            let s = steps[c as usize];
            let (x, y, dx) = (values(&x.get(c)), values(&y.get(c)), values(&dx.get(c)));
            for i in 0..x.len() {
                assert_eq!(y[i], code(x[i], s, -127) as f32 * s);
                assert_eq!(dx[i], f32::from(u8::from((x[i] / s).round_ties_even().abs() <= 127.0)));
            }
        }
    }
}

#[test]
fn abs_max_counts_what_is_not_finite() {
    for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
        let t = Tensor::from_slice(&[1.0f32, -3.5, f32::NAN, f32::NEG_INFINITY, 0.25]).to_kind(kind);
        assert_eq!(values(&abs_max(&t).unwrap()), [3.5, 2.0]);
        let big = Tensor::arange(100_000, (Kind::Float, Device::Cpu)).fmod(997.0).view([100, 10, 100]);
        let big = big.to_kind(kind).permute([2, 0, 1]);
        assert_eq!(values(&abs_max(&big).unwrap()), [996.0, 0.0]);
    }
    assert_eq!(values(&abs_max(&Tensor::zeros([0, 3], (Kind::Float, Device::Cpu))).unwrap()), [0.0, 0.0]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let e = fake_quant_per_channel(&x, &Tensor::from_slice(&[1.0f32; 3]), -127, 127, false).unwrap_err();
    assert!(e.to_string().starts_with("3 steps where 2 are wanted"), "{e}");
    let e =
        fake_quant(&x.to_kind(Kind::Int64), &Tensor::from_slice(&[1.0f32]), -127, 127, false).unwrap_err();
    assert!(e.to_string().contains("cannot be fake-quantized"), "{e}");
    assert!(fake_quant(&x, &Tensor::from_slice(&[1.0f64]), -127, 127, false).is_err());
}
