//! Depthwise convolutions against libtorch's.

use super::*;

struct Case {
    shape: [i64; 4],
    kernel: [i64; 2],
    taps: Taps,
    biased: bool,
}

fn cases() -> Vec<Case> {
    let case = |shape, kernel, stride, padding, dilation, biased| {
        let taps = Taps { stride, padding, dilation };
        Case { shape, kernel, taps, biased }
    };
    vec![
        case([2, 144, 16, 16], [3, 3], [2, 2], [1, 1], [1, 1], false),
        case([3, 64, 15, 13], [5, 5], [2, 2], [2, 2], [1, 1], true),
        case([1, 3, 9, 7], [3, 1], [2, 1], [1, 0], [1, 1], false),
        case([2, 65, 11, 10], [3, 3], [3, 2], [0, 2], [2, 1], true),
        case([2, 200, 8, 8], [1, 1], [2, 2], [0, 0], [1, 1], false),
        case([1, 20, 6, 5], [3, 3], [1, 1], [1, 1], [1, 1], false),
        // The last columns are read by no tap.
        case([1, 5, 10, 10], [2, 2], [4, 4], [0, 0], [1, 1], false),
    ]
}

/// The case's output and its gradients by input, weight and bias, of numbers that BF16 has; `own`: by our operator.
fn results(case: &Case, kind: Kind, own: bool) -> Vec<Tensor> {
    let channels = case.shape[1];
    // Not libtorch's generator, which other tests use at the same time. The shorter a tensor, the later its numbers begin.
    let of = |shape: &[i64]| {
        let n = shape.iter().product::<i64>() as usize;
        let skipped = 1000 / n;
        Tensor::from_slice(&random(n + skipped, 2.0)[skipped..])
            .view(shape)
            .to_kind(Kind::BFloat16)
            .to_kind(kind)
    };
    let x = of(&case.shape).permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]).set_requires_grad(true);
    let weight = of(&[channels, 1, case.kernel[0], case.kernel[1]]).set_requires_grad(true);
    let bias = case.biased.then(|| of(&[channels]).set_requires_grad(true));
    let Taps { stride, padding, dilation } = case.taps;
    let y = match own {
        true => depthwise(&x, &weight, bias.as_ref(), case.taps).unwrap(),
        false => x.conv2d(&weight, bias.as_ref(), stride, padding, dilation, channels),
    };
    let dy = of(&y.size());
    let by: Vec<&Tensor> = [&x, &weight].into_iter().chain(&bias).collect();
    let mut all = gradients(&y, &dy, &by);
    all.insert(0, y);
    all
}

/// What the operator gives for every case of `kind`.
pub(super) fn of_all_cases(kind: Kind) -> Vec<Tensor> {
    // libtorch's own part differs by instruction set: the gradient by input is ours.
    cases().iter().map(|case| results(case, kind, true).swap_remove(1)).collect()
}

#[test]
fn values_and_gradients_are_libtorchs() {
    for case in cases() {
        let wide = results(&case, Kind::Float, false);
        for (kind, unit) in [(Kind::Float, 1e-6), (Kind::BFloat16, 1.0 / 256.0)] {
            let (got, same) = (results(&case, kind, true), results(&case, kind, false));
            for (i, ((got, want), same)) in got.iter().zip(&wide).zip(&same).enumerate() {
                let at = format!("{:?}, {kind:?}, result {i}", case.shape);
                assert_eq!((got.size(), got.kind()), (want.size(), kind), "{at}");
                if i != 1 {
                    assert!(got.equal(same), "{at} is libtorch's own");
                    continue;
                }
                let largest = want.abs().max().double_value(&[]);
                let error = (got.to_kind(Kind::Float) - want).abs() - want.abs() * unit;
                assert!(error.max().double_value(&[]) <= 1e-6 * largest, "{at}: {error:?}");
            }
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let run = |threads| {
        let before = tch::get_num_threads();
        tch::set_num_threads(threads);
        let all: Vec<Vec<f32>> = of_all_cases(Kind::BFloat16).iter().map(values).collect();
        tch::set_num_threads(before);
        all
    };
    assert!(run(1) == run(2));
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let of = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let taps = Taps { stride: [2, 2], padding: [1, 1], dilation: [1, 1] };
    let x = of(&[1, 4, 8, 8]);
    assert!(depthwise(&x, &of(&[4, 2, 3, 3]), None, taps).is_err());
    assert!(depthwise(&x, &of(&[8, 1, 3, 3]), None, taps).is_err());
    assert!(depthwise(&x, &of(&[4, 1, 3, 3]).to_kind(Kind::BFloat16), None, taps).is_err());
    assert!(depthwise(&x, &of(&[4, 1, 3, 3]), None, Taps { stride: [0, 2], ..taps }).is_err());
}

#[test]
fn a_gradient_that_is_to_be_differentiated_is_refused() {
    let of = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let (x, weight) = (of(&[1, 4, 8, 8]), of(&[4, 1, 3, 3]));
    let taps = Taps { stride: [2, 2], padding: [1, 1], dilation: [1, 1] };
    let y = depthwise(&x, &weight, None, taps).unwrap().sum(Kind::Float);
    let told = Tensor::f_run_backward(&[&y], &[&x, &weight], true, true).unwrap_err().to_string();
    assert!(told.contains("differentiated twice") && told.contains("conv2d"), "{told}");
    assert!(Tensor::f_run_backward(&[y], &[x, weight], false, false).is_ok(), "once it can be");
}
