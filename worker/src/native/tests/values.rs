//! Values, clip masks and statistics, element by element.

use super::*;

/// Scales from the smallest to the largest range, and ones that count as the smallest.
const SCALES: [f32; 10] =
    [0.013, 1e-7 / 127.0, MIN_SCALE, 0.0, -0.5, 1e-40, 0.25, 1.0, 1e30, f32::MAX / 127.0];

const RANGES: [[i64; 2]; 5] = [[-127, 127], [0, 255], [0, 127], [-63, 63], [-128, 127]];

#[test]
fn every_value_of_every_type_is_quantized_as_by_plain_arithmetic() {
    for device in devices() {
        for kind in KINDS {
            let x = corpus(kind).to_device(device).set_requires_grad(true);
            let n = x.numel();
            let dy = Tensor::from_slice(&random(n, 2.0)).to_kind(kind).to_device(device);
            let (given, dys) = (values(&x), values(&dy));
            for (scale, range) in SCALES.into_iter().flat_map(|s| RANGES.map(|r| (s, r))) {
                let scale_tensor = scale_on(device, scale);
                let y = fake_quant(&x, &scale_tensor, range[0], range[1], false).unwrap();
                assert_eq!((y.kind(), y.device()), (kind, device));
                let dx = gradients(&y, &dy, &[&x]).remove(0);
                let (y, dx) = (values(&y), values(&dx));
                for i in 0..n {
                    let want = expected(given[i], scale, range);
                    let at = format!("{kind:?} on {device:?}, x {:e}, scale {scale:e}, {range:?}", given[i]);
                    assert!(same(y[i], rounded(want.y, kind)), "{at}: {:e}, not {:e}", y[i], want.y);
                    assert_eq!(dx[i], if want.inside { dys[i] } else { 0.0 }, "{at}");
                }
            }
        }
    }
}

#[test]
fn infinities_saturate_and_nan_stays_nan_without_a_gradient() {
    for device in devices() {
        for kind in KINDS {
            let x = Tensor::from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0]).to_kind(kind);
            let x = x.to_device(device).set_requires_grad(true);
            let dy = x.ones_like();
            let y = fake_quant(&x, &scale_on(device, 0.5), -127, 127, false).unwrap();
            let dx = gradients(&y, &dy, &[&x]).remove(0);
            let y = values(&y);
            assert!(y[0].is_nan());
            assert_eq!(y[1..], [63.5, -63.5, 1.0]);
            assert_eq!(values(&dx), [0.0, 0.0, 0.0, 1.0]);
            let y = fake_quant(&x, &scale_on(device, 0.5), -127, 127, true).unwrap();
            assert_eq!(values(&gradients(&y, &dy, &[&x]).remove(0)), [1.0; 4]);
        }
    }
}

/// The scale problem of FP16: `1e-7 / 127` is 0 in FP16 and in FP32 an ordinary number.
#[test]
fn a_range_of_1e_7_keeps_its_values_under_fp16() {
    for device in devices() {
        let x = Tensor::from_slice(&[1e-7f32, -1e-7, 6e-8, 0.0]).to_kind(Kind::Half).to_device(device);
        let absmax = values(&abs_max(&x).unwrap())[0];
        let scale = crate::quant::scheme::Scheme::weight(8).scale(absmax).unwrap();
        assert_eq!(f16::from_f32(scale), f16::ZERO, "the case is the one that is meant");
        let y = fake_quant(&x, &scale_on(device, scale), -127, 127, false).unwrap();
        assert_eq!(values(&y), values(&x), "codes 127, -127, 63 or 64, and 0 give the FP16 numbers back");
        assert!(values(&y)[..3].iter().all(|v| v.is_finite() && *v != 0.0));
    }
}

#[test]
fn what_is_observed_is_the_same_alone_and_while_quantizing() {
    for device in devices() {
        for kind in KINDS {
            let all = corpus(kind).to_device(device);
            let finite = all.masked_select(&all.isfinite());
            let tiny = Tensor::from_slice(&[-f32::from_bits(3), 0.0]).to_device(device);
            for x in [all, finite, tiny, Tensor::zeros([0, 3], (kind, device))] {
                let v = values(&x);
                let want = [
                    v.iter().filter(|v| v.is_finite()).fold(0.0, |most: f32, v| most.max(v.abs())),
                    v.iter().filter(|v| !v.is_finite()).count() as f32,
                ];
                assert_eq!(values(&abs_max(&x).unwrap()), want);
                let scale = scale_on(device, 0.01);
                let (y, seen) = observe_fake_quant(&x, &scale, -127, 127, false).unwrap();
                assert_eq!((seen.kind(), seen.device(), values(&seen)), (Kind::Float, device, want.to_vec()));
                let plain = values(&fake_quant(&x, &scale, -127, 127, false).unwrap());
                assert!(values(&y).into_iter().zip(plain).all(|(a, b)| same(a, b)));
            }
        }
    }
}

#[test]
fn without_gradients_nothing_is_kept_and_values_are_equal() {
    for device in devices() {
        let x = Tensor::from_slice(&random(1000, 2.0)).to_device(device).set_requires_grad(true);
        let with = fake_quant(&x, &scale_on(device, 0.01), -127, 127, false).unwrap();
        let without = tch::no_grad(|| fake_quant(&x, &scale_on(device, 0.01), -127, 127, false).unwrap());
        assert!(with.requires_grad() && !without.requires_grad());
        assert!(with.equal(&without));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
    let scale = Tensor::from_slice(&[1.0f32]);
    let refusal =
        |x: &Tensor, scale: &Tensor| fake_quant(x, scale, -127, 127, false).unwrap_err().to_string();
    let e = fake_quant_per_channel(&x, &Tensor::from_slice(&[1.0f32; 3]), -127, 127, false).unwrap_err();
    assert!(e.to_string().starts_with("3 scales where 2 are wanted"), "{e}");
    for kind in [Kind::Int64, Kind::Double] {
        let e = refusal(&x.to_kind(kind), &scale);
        assert!(e.contains("cannot be fake-quantized"), "{e}");
        assert!(abs_max(&x.to_kind(kind)).is_err());
    }
    let e = refusal(&x, &Tensor::from_slice(&[1.0f64]));
    assert!(e.contains("FP32 is wanted"), "{e}");
    let scalar = Tensor::from(1.0f32);
    assert!(fake_quant_per_channel(&scalar, &scale, -127, 127, false).is_err());
}

/// Numbers whose quotients by `scale` lie on, and right beside, whole and half numbers within the codes and beyond them, and others of
/// all magnitudes.
fn around_codes(scale: f32) -> Vec<f32> {
    let beside = |half: i32| {
        let v = half as f32 * 0.5 * scale;
        (-3..=3).map(move |ulps: i32| f32::from_bits(v.to_bits().wrapping_add_signed(ulps)))
    };
    let on = (-300..=300).flat_map(beside);
    let magnitudes = (0u32..255).flat_map(|e| {
        [0x0, 0x1, 0x2a_aaab, 0x7f_ffff].map(|fraction| f32::from_bits(e << 23 | fraction | (e & 1) << 31))
    });
    on.chain(magnitudes).collect()
}

#[test]
fn quotients_are_rounded_as_those_of_a_division_whatever_the_scale() {
    let fractions =
        (0u32..8).chain((0..8).map(|i| 0x7f_ffff - i)).chain((1u32..48).map(|i| i * 0x2_a5f7 % 0x80_0000));
    let exponents = [127 - 62, 127 - 60, 127 - 20, 127 - 7, 127, 127 + 20, 127 + 59, 127 + 61];
    for (i, fraction) in fractions.enumerate() {
        let scale = f32::from_bits(exponents[i % exponents.len()] << 23 | fraction);
        let x = around_codes(scale);
        let y = fake_quant(&Tensor::from_slice(&x), &Tensor::from_slice(&[scale]), -127, 127, false).unwrap();
        let got = Vec::<f32>::try_from(&y).unwrap();
        for (x, got) in x.iter().zip(&got) {
            let want = (x / scale).round_ties_even().clamp(-127.0, 127.0) * scale;
            assert_eq!(got.to_bits(), want.to_bits(), "{x:e} by {scale:e} is {got:e}, not {want:e}");
        }
    }
}
