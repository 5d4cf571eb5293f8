//! Products of INT8 codes against whole-number arithmetic, and what they are made of against the fake-quant operator.

use super::super::{
    Codes, Int8Product, Pointwise, Rounding, WeightCodes, codes, int8_pack, int8_product, int8_products,
    max_pool_of_codes, pointwise, pointwise_with_codes, weight_on_cpu,
};
use super::*;
use crate::exec::{weight_scales, with_layout};
use crate::graph::Layout;
use crate::quant::scheme::{Scheme, Sign};

struct Case {
    /// `[N, C, H, W]`, or `[N, C]` and `[N, T, C]` for a linear layer.
    shape: &'static [i64],
    outputs: i64,
    kernel: i64,
    taps: Taps,
    biased: bool,
    /// A linear layer; of four dimensions it is one as well.
    linear: bool,
}

fn cases() -> Vec<Case> {
    let case = |shape: &'static [i64], outputs, kernel, [stride, padding, dilation]: [i64; 3], biased| {
        let taps = Taps { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] };
        Case { shape, outputs, kernel, taps, biased, linear: shape.len() != 4 }
    };
    vec![
        case(&[2, 64, 14, 14], 64, 3, [1, 1, 1], false),
        case(&[3, 3, 33, 31], 16, 7, [2, 3, 1], true),
        case(&[1, 65, 9, 7], 33, 1, [1, 0, 1], true),
        case(&[2, 128, 13, 13], 100, 3, [2, 1, 1], false),
        case(&[1, 5, 17, 11], 1, 3, [1, 2, 2], true),
        case(&[4, 256, 7, 7], 512, 1, [2, 0, 1], false),
        case(&[16, 130], 10, 1, [1, 0, 1], true),
        case(&[2, 17, 48], 96, 1, [1, 0, 1], true),
        Case { linear: true, ..case(&[2, 20, 20, 20], 12, 1, [1, 0, 1], true) },
        Case { linear: true, ..case(&[2, 8, 5, 8], 8, 1, [1, 0, 1], false) },
    ]
}

/// Numbers of a sort, not libtorch's, which other tests use at the same time.
fn numbers(shape: &[i64], amplitude: f32, skipped: usize) -> Tensor {
    let n = shape.iter().product::<i64>() as usize;
    Tensor::from_slice(&random(n + skipped, amplitude)[skipped..]).view(shape)
}

/// What a product of codes is made of.
struct Parts {
    x: Tensor,
    weight: Tensor,
    bias: Option<Tensor>,
    codes: Codes,
    of_weight: WeightCodes,
}

/// Of a case, where a code of the input is worth `scale`, and the largest of a channel of the weight `127 * scale` at most.
fn parts(case: &Case, kind: Kind, sign: Sign, scale: f32, of_weight: f32) -> Parts {
    let activation = Scheme::activation(sign);
    let reach = scale * 300.0;
    let x = with_layout(&numbers(case.shape, reach, 7), Layout::Nhwc).unwrap().to_kind(kind);
    let (low, high) = (activation.qmin(), activation.qmax());
    let x = fake_quant(&x, &scale_on(Device::Cpu, scale), low, high, false).unwrap();
    let inner = if case.linear { case.shape[case.shape.len() - 1] } else { case.shape[1] };
    let shape = match case.linear {
        false => vec![case.outputs, inner, case.kernel, case.kernel],
        true => vec![case.outputs, inner],
    };
    let mut w = numbers(&shape, of_weight * 127.0, 3);
    // A channel's largest says what a code is worth.
    let channels = w.view([case.outputs, -1]);
    let powers: Vec<f32> = (0..case.outputs).map(|c| of_weight * 127.0 * 0.5f32.powi(c as i32 % 5)).collect();
    let powers = Tensor::from_slice(&powers);
    channels.shallow_clone().copy_(&(&channels * powers.unsqueeze(1) / f64::from(of_weight * 127.0)));
    channels.narrow(1, 0, 1).squeeze_dim(1).copy_(&powers);
    w = w.contiguous();
    let (weight, of_weight) = weight_on_cpu(&w, Scheme::weight(8), kind, Layout::Nhwc, true).unwrap();
    let bias = case.biased.then(|| (numbers(&[case.outputs], 100.0, 5).round() * 0.25f64).to_kind(kind));
    let leaf = |t: Tensor| t.set_requires_grad(true);
    Parts {
        codes: codes(&x, scale, activation).unwrap(),
        x: leaf(x),
        weight: leaf(weight),
        bias: bias.map(leaf),
        of_weight: of_weight.unwrap(),
    }
}

fn product(case: &Case, p: &Parts) -> Tensor {
    let packed = int8_pack(&p.of_weight, &p.x, case.taps, p.codes.zero).unwrap();
    let (x, weight, bias) = (&p.x, &p.weight, p.bias.as_ref());
    let (codes, packed, scales, taps) = (&p.codes, &packed, &p.of_weight.scales, case.taps);
    int8_product(&Int8Product { x, weight, bias, codes, packed, scales, taps }).unwrap()
}

/// By libtorch, of any type.
fn by_libtorch(case: &Case, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let Taps { stride, padding, dilation } = case.taps;
    match case.linear {
        false => x.conv2d(weight, bias, stride, padding, dilation, 1),
        true => x.linear(weight, bias),
    }
}

/// `[scale of channel]` as it multiplies the outputs.
fn by_output(case: &Case, of: &Tensor) -> Tensor {
    if case.linear { of.shallow_clone() } else { of.view([1, -1, 1, 1]) }
}

fn signs() -> [Sign; 2] {
    [Sign::Signed, Sign::Unsigned]
}

fn exact() -> bool {
    let exact = int8_products();
    if !exact {
        skipped("products of INT8 codes: this CPU has no VNNI");
    }
    exact
}

#[test]
fn sums_are_exact_and_rounded_once() {
    if !exact() {
        return;
    }
    for case in cases() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for sign in signs() {
                let at = format!("{:?} to {}, {kind:?}, {sign:?}", case.shape, case.outputs);
                // Scales are powers of two, so that nothing but the sum and the last rounding can err.
                let p = parts(&case, kind, sign, 0.0625, 0.0078125);
                let zero = p.codes.zero as f64;
                let x = p.codes.codes.to_kind(Kind::Double) - zero;
                let w = p.of_weight.codes.to_kind(Kind::Double);
                let scales = p.of_weight.scales.to_kind(Kind::Double) * 0.0625;
                let sum = by_libtorch(&case, &x, &w, None) * by_output(&case, &scales);
                let bias = p.bias.as_ref().map(|b| by_output(&case, &b.detach().to_kind(Kind::Double)));
                let sum = if let Some(b) = bias { sum + b } else { sum };
                let y = product(&case, &p);
                assert_eq!((y.kind(), y.size()), (kind, sum.size()), "{at}");
                let differ = y.detach().ne_tensor(&sum.to_kind(Kind::Float).to_kind(kind));
                assert_eq!(differ.sum(Kind::Int64).int64_value(&[]), 0, "{at}: {y} {sum}");
                assert!(case.linear || y.stride()[1] == 1 || y.size()[1] == 1, "{at}: {:?}", y.stride());
                // What they stand for is what is kept for backward.
                let worth = with_layout(&x, Layout::Nhwc).unwrap() * 0.0625;
                assert_eq!(values(&worth), values(&p.x), "{at}");
            }
        }
    }
}

#[test]
fn any_scale_gives_the_product_of_what_codes_stand_for() {
    if !exact() {
        return;
    }
    for case in cases() {
        for sign in signs() {
            for kind in [Kind::Float, Kind::BFloat16] {
                let p = parts(&case, kind, sign, 0.0137, 0.00311);
                let y = product(&case, &p).detach().to_kind(Kind::Double);
                let x =
                    (p.codes.codes.to_kind(Kind::Double) - p.codes.zero as f64) * f64::from(p.codes.scale);
                let w = p.of_weight.codes.to_kind(Kind::Double);
                let scales = p.of_weight.scales.to_kind(Kind::Double);
                let mut want = by_libtorch(&case, &x, &w, None) * by_output(&case, &scales);
                if let Some(b) = &p.bias {
                    want += by_output(&case, &b.detach().to_kind(Kind::Double));
                }
                let unit = if kind == Kind::Float { 4e-7 } else { 1.0 / 255.0 };
                let error = (y - &want).abs() - want.abs() * unit;
                let largest = error.max().double_value(&[]);
                assert!(largest <= 1e-6, "{:?} {kind:?} {sign:?}: {largest}", case.shape);
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_fake_quantized_product() {
    if !exact() {
        return;
    }
    for case in cases() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let p = parts(&case, kind, Sign::Unsigned, 0.0137, 0.00311);
            let by: Vec<&Tensor> = [&p.x, &p.weight].into_iter().chain(&p.bias).collect();
            let y = product(&case, &p);
            let dy = numbers(&y.size(), 1.0, 11).to_kind(kind);
            let dy = if case.linear { dy } else { with_layout(&dy, Layout::Nhwc).unwrap() };
            let want = gradients(&by_libtorch(&case, &p.x, &p.weight, p.bias.as_ref()), &dy, &by);
            for (i, (got, want)) in gradients(&y, &dy, &by).iter().zip(&want).enumerate() {
                assert_eq!((got.kind(), got.size()), (kind, want.size()));
                assert!(got.equal(want), "{:?} {kind:?}, gradient {i}", case.shape);
            }
        }
    }
}

#[test]
fn threads_do_not_matter_to_products_of_codes() {
    if !exact() {
        return;
    }
    let run = |threads| {
        let before = tch::get_num_threads();
        tch::set_num_threads(threads);
        let of =
            |case: &Case| values(&product(case, &parts(case, Kind::BFloat16, Sign::Signed, 0.01, 0.002)));
        let all: Vec<Vec<f32>> = cases().iter().map(of).collect();
        tch::set_num_threads(before);
        all
    };
    assert!(run(1) == run(2));
}

#[test]
fn what_is_not_a_number_stays_none() {
    let case = &cases()[0];
    let nan = |shape: &[i64], at: i64| {
        let t = numbers(shape, 1.0, 0);
        let _ = t.view(-1).narrow(0, at, 1).fill_(f64::NAN);
        t
    };
    let found = codes(&nan(&[1, 64, 3, 3], 70), 0.01, Scheme::activation(Sign::Signed)).unwrap();
    assert!(found.scale.is_nan());
    let by_nan = codes(&numbers(&[2, 3], 1.0, 0), f32::NAN, Scheme::activation(Sign::Signed)).unwrap();
    assert!(by_nan.scale.is_nan());
    let (y, of_weight) =
        weight_on_cpu(&nan(&[64, 64, 3, 3], 600), Scheme::weight(8), Kind::Float, Layout::Nhwc, true)
            .unwrap();
    let scales = values(&of_weight.as_ref().unwrap().scales);
    assert_eq!(
        scales.iter().map(|s| s.is_nan()).collect::<Vec<_>>(),
        (0..64).map(|c| c == 1).collect::<Vec<_>>()
    );
    assert!(values(&y.get(1)).iter().all(|v| v.is_nan()));
    if !exact() {
        return;
    }
    let mut p = parts(case, Kind::Float, Sign::Unsigned, 0.01, 0.01);
    p.codes.scale = f32::NAN;
    assert!(values(&product(case, &p)).iter().all(|v| v.is_nan()));
    p.codes.scale = 1.0;
    p.of_weight = of_weight.unwrap();
    let y = product(case, &p);
    assert!(values(&y.get(0).get(1)).iter().all(|v| v.is_nan()));
    assert!(values(&y.get(0).get(0)).iter().all(|v| v.is_finite()));
}

#[test]
fn codes_of_what_codes_made_are_those_codes_as_far_as_the_type_tells_them_apart() {
    for (kind, reaches) in [(Kind::Float, 255), (Kind::BFloat16, 127)] {
        for (scale, sign) in
            [0.0137f32, 1e-7, 0.3333, 77.7].into_iter().zip([Sign::Signed, Sign::Unsigned].repeat(2))
        {
            let scheme = Scheme::activation(sign);
            let wanted: Vec<i64> = (scheme.qmin()..=scheme.qmax().min(reaches)).collect();
            let all: Vec<f32> = wanted.iter().map(|q| *q as f32 * scale).collect();
            let y = Tensor::from_slice(&all).to_kind(kind);
            let found = codes(&y, scale, scheme).unwrap();
            let found: Vec<i64> = Vec::<u8>::try_from(&found.codes)
                .unwrap()
                .iter()
                .map(|q| i64::from(*q) - found.zero)
                .collect();
            assert_eq!(found, wanted, "{kind:?} {scale}");
        }
    }
}

#[test]
fn a_part_of_a_tensor_has_the_codes_of_its_copy() {
    let whole = numbers(&[3, 9, 7], 2.0, 1);
    let part = whole.narrow(1, 4, 1);
    let [found, of_copy] = [&part, &part.contiguous()]
        .map(|x| codes(x, 0.0137, Scheme::activation(Sign::Signed)).unwrap().codes);
    assert!(!part.is_contiguous() && found.equal(&of_copy));
}

/// Codes of a tensor and of a chain.
pub(super) fn of_codes(kind: Kind) -> Vec<Tensor> {
    let mut all = vec![];
    for sign in signs() {
        let scheme = Scheme::activation(sign);
        let x = with_layout(&numbers(&[2, 37, 5, 7], 4.0, 1), Layout::Nhwc).unwrap().to_kind(kind);
        let scale = scale_on(Device::Cpu, 0.0137);
        let rounding = Some(Rounding { scale: &scale, scheme, unclipped: false });
        let of = Pointwise { residual: Some(&x), rounding, ..Pointwise::default() };
        let chain = pointwise_with_codes(&x, &of, false).unwrap().2;
        all.extend([codes(&x, 0.0137, scheme).unwrap(), chain].map(|found| found.codes.to_kind(kind)));
    }
    all
}

#[test]
fn a_chain_s_codes_are_those_of_its_value() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for sign in signs() {
            let scale = scale_on(Device::Cpu, 0.0137);
            let rounding = || Rounding { scale: &scale, scheme: Scheme::activation(sign), unclipped: false };
            let x = with_layout(&numbers(&[3, 70, 9, 11], 4.0, 1), Layout::Nhwc).unwrap().to_kind(kind);
            let other = with_layout(&numbers(&[3, 70, 9, 11], 2.0, 9), Layout::Nhwc).unwrap().to_kind(kind);
            let of =
                || Pointwise { residual: Some(&other), rounding: Some(rounding()), ..Pointwise::default() };
            let (y, second, found) = pointwise_with_codes(&x, &of(), true).unwrap();
            assert!(y.equal(&pointwise(&x, &of()).unwrap()) && y.equal(&second.unwrap()));
            let wide = (&x.to_kind(Kind::Float) + &other.to_kind(Kind::Float)).contiguous();
            let again =
                codes(&with_layout(&wide, Layout::Nhwc).unwrap(), 0.0137, Scheme::activation(sign)).unwrap();
            assert!(found.codes.equal(&again.codes) && found.codes.stride() == y.stride());
            assert_eq!((found.scale, found.zero), (again.scale, again.zero));
            assert!(found.codes.max().int64_value(&[]) > 200);
            let _ = x.get(0).get(5).get(1).fill_(f64::NAN);
            assert!(pointwise_with_codes(&x, &of(), false).unwrap().2.scale.is_nan());
        }
    }
}

#[test]
fn the_largest_codes_are_those_of_the_largest_values() {
    let x = with_layout(&numbers(&[2, 33, 11, 9], 200.0, 1).abs().round(), Layout::Nhwc).unwrap();
    for [kernel, stride, padding] in [[3, 2, 1], [2, 2, 0], [3, 1, 1]] {
        let got = max_pool_of_codes(&x.to_kind(Kind::Uint8), [kernel, stride, padding]).unwrap();
        let want = x.max_pool2d([kernel; 2], [stride; 2], [padding; 2], [1, 1], false);
        assert_eq!(values(&got), values(&want));
        assert_eq!(got.stride(), want.stride());
    }
    for windows in [[3, 1, 2], [12, 1, 0], [0, 1, 0], [3, 0, 1]] {
        assert!(max_pool_of_codes(&x.to_kind(Kind::Uint8), windows).is_err(), "{windows:?}");
    }
}

/// What a weight's pass gives, of several shapes.
pub(super) fn of_weights(kind: Kind) -> Vec<Tensor> {
    let mut all = vec![];
    for shape in [&[5i64, 70, 3, 3][..], &[3, 1, 5, 5], &[7, 300, 1, 1], &[10, 33]] {
        for bits in [8, 7, 3] {
            let w = numbers(shape, 0.7, 2);
            let _ = w.get(0).fill_(0.0);
            let _ = w.get(1).fill_(1e-38);
            let _ = w.get(2).view(-1).narrow(0, 0, 1).fill_(f64::INFINITY);
            let (y, codes) = weight_on_cpu(&w, Scheme::weight(bits), kind, Layout::Nhwc, true).unwrap();
            let codes = codes.unwrap();
            all.extend([y, codes.codes.to_kind(kind), codes.scales.to_kind(kind)]);
        }
    }
    all
}

#[test]
fn a_weight_in_one_pass_is_what_it_was_in_four() {
    for kind in KINDS {
        for layout in [Layout::Nhwc, Layout::Nchw] {
            for shape in [&[5i64, 70, 3, 3][..], &[3, 2, 5, 5], &[7, 300, 1, 1], &[10, 33], &[2, 600, 2, 3]] {
                let w = numbers(shape, 0.7, 4);
                let _ = w.get(0).fill_(0.0);
                let _ = w.get(1).view(-1).narrow(0, 0, 1).fill_(f64::NAN);
                let scheme = Scheme::weight(8);
                let scales = weight_scales(&w, scheme).unwrap();
                let apart = fake_quant_per_channel(&w, &scales, -127, 127, false).unwrap();
                let apart = with_layout(&apart.to_kind(kind), layout).unwrap();
                let (y, codes) = weight_on_cpu(&w, scheme, kind, layout, true).unwrap();
                let codes = codes.unwrap();
                assert_eq!((y.kind(), y.size(), y.stride()), (kind, apart.size(), apart.stride()));
                let same_all = values(&y).into_iter().zip(values(&apart)).all(|(a, b)| same(a, b));
                assert!(same_all, "{kind:?} {shape:?}");
                let zeros = vec![1; shape.len() - 1];
                let by_row = codes.scales.view([&[-1][..], &zeros].concat().as_slice());
                let made = codes.codes.to_kind(Kind::Float) * by_row;
                let made = values(&made.to_kind(kind)).into_iter().zip(values(&apart));
                assert!(made.into_iter().all(|(a, b)| same(a, b)), "{kind:?} {shape:?}");
            }
        }
    }
}
