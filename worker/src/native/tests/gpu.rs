//! Operators with kernels for GPUs alone, emulated, against libtorch's.

use super::super::gpu::{max_pool_by, weight_by};
use super::*;
use crate::exec::{weight_scales, with_layout};
use crate::graph::Layout;
use crate::quant::scheme::Scheme;

fn images(shape: [i64; 4], kind: Kind) -> Tensor {
    let n = shape.iter().product::<i64>() as usize;
    let t = Tensor::from_slice(&random(n, 3.0)).view(shape).to_kind(kind);
    with_layout(&t, Layout::Nhwc).unwrap()
}

#[test]
fn the_maximum_over_windows_and_its_gradient_are_those_of_libtorch() {
    for (i, (shape, windows)) in [
        ([2, 16, 9, 7], [3, 2, 1]),
        ([1, 5, 8, 8], [2, 2, 0]),
        ([2, 24, 5, 6], [3, 1, 1]),
        ([1, 3, 11, 4], [4, 3, 2]),
        ([1, 8, 16, 17], [16, 1, 0]),
    ]
    .into_iter()
    .enumerate()
    {
        for kind in KINDS {
            let x = images(shape, kind);
            // Equal values, of which the first counts, and a NaN.
            let x = (x * 2.0).round();
            let _ = x.get(0).get(1).get(2).get(3).fill_(f64::NAN);
            let (a, b) = (x.copy().set_requires_grad(true), x.to_kind(Kind::Float).set_requires_grad(true));
            emulated::grid(i);
            let got = max_pool_by(&a, windows, true).unwrap();
            let [kernel, stride, padding] = windows.map(|v| [v, v]);
            let want = b.max_pool2d(kernel, stride, padding, [1, 1], false);
            assert!(
                values(&got).iter().zip(&values(&want)).all(|(a, b)| same(*a, *b)),
                "{shape:?} {windows:?}"
            );
            let dy = images(want.size().try_into().unwrap(), kind);
            let [got, want] = [(&got, &a), (&want, &b)].map(|(y, x)| {
                let dy = dy.to_kind(y.kind());
                let loss = (y.nan_to_num(0.0, None, None) * dy).sum(Kind::Float);
                Tensor::run_backward(&[loss], &[x], false, false).remove(0)
            });
            // Each is rounded to its type once.
            let rounding = if kind == Kind::Float { 1e-6 } else { 4e-3 };
            let largest = want.abs().max().double_value(&[]);
            let apart = (got.to_kind(Kind::Float) - &want).abs().max().double_value(&[]);
            let at = format!("{shape:?} {windows:?} {kind:?}");
            assert!(apart <= rounding * largest && largest > 0.1, "{at}: {apart} of {largest}");
        }
    }
    let x = images([1, 8, 4, 4], Kind::Float).set_requires_grad(true);
    let y = max_pool_by(&x, [2, 2, 0], true).unwrap().sum(Kind::Float);
    let told = Tensor::f_run_backward(&[&y], &[&x], true, true).unwrap_err().to_string();
    assert!(told.contains("differentiated twice") && told.contains("max_pool2d"), "{told}");
    assert!(Tensor::f_run_backward(&[&y], &[&x], false, false).is_ok(), "once it can be");
    assert!(max_pool_by(&images([1, 8, 2, 2], Kind::Float), [3, 1, 0], true).is_err());
    assert!(max_pool_by(&images([1, 8, 2, 2], Kind::Float), [2, 1, 0], false).is_err(), "it is not on a GPU");
}

#[test]
fn a_weight_is_prepared_as_by_the_operators_one_by_one() {
    for (i, shape) in
        [vec![7, 5, 3, 3], vec![16, 24, 1, 1], vec![3, 1, 5, 5], vec![9, 300]].into_iter().enumerate()
    {
        let n = shape.iter().product::<i64>() as usize;
        let w = Tensor::from_slice(&random(n, 0.2)).view(shape.as_slice());
        // A row of zeros has the least scale there is.
        let _ = w.get(1).zero_();
        for (bits, kind) in [(8, Kind::Float), (8, Kind::BFloat16), (7, Kind::Half)] {
            for layout in [Layout::Nhwc, Layout::Nchw] {
                let scheme = Scheme::weight(bits);
                let scales = weight_scales(&w, scheme).unwrap();
                let y = fake_quant_per_channel(&w, &scales, scheme.qmin(), scheme.qmax(), false).unwrap();
                let want = with_layout(&y.to_kind(kind), layout).unwrap();
                emulated::grid(i);
                let got = weight_by(&w, scheme, kind, layout, true).unwrap();
                assert!(got.kind() == kind && got.equal(&want), "{shape:?} {kind:?} {layout:?}");
                let dense = shape.iter().all(|n| *n > 1);
                assert!(!dense || got.stride() == want.stride(), "{shape:?} {layout:?}");
            }
        }
    }
}
