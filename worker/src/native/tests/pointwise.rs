//! Chains of operators as one, against libtorch's operators one by one and against each other.

use super::super::{Cut, Norm, Pointwise, Rounding, fake_quant, pointwise};
use super::*;
use crate::quant::scheme::{Scheme, Sign};

const RELU: Cut = Cut { low: 0.0, high: f32::INFINITY, strict: true };
const RELU6: Cut = Cut { low: 0.0, high: 6.0, strict: true };
const EPS: f64 = 1e-5;

/// What a case is made of: which parts the chain has.
#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    /// `[N, C, H, W]`.
    shape: [i64; 4],
    /// Whether there is a BatchNorm, and whether by the batch's statistics.
    norm: Option<bool>,
    residual: bool,
    cut: Option<Cut>,
    /// Scale of the quantizer.
    rounds: Option<f32>,
}

fn cases() -> Vec<Case> {
    let mut all = vec![];
    for kind in KINDS {
        for shape in
            [[2, 16, 5, 7], [3, 5, 3, 3], [1, 300, 4, 4], [5, 96, 33, 31], [4, 1, 9, 1], [2, 7, 1, 1]]
        {
            for norm in [None, Some(false), Some(true)] {
                for residual in [false, true] {
                    for (cut, rounds) in
                        [(None, None), (Some(RELU), None), (Some(RELU6), Some(0.02)), (None, Some(0.03))]
                    {
                        all.push(Case { kind, shape, norm, residual, cut, rounds });
                    }
                }
            }
        }
    }
    all
}

/// Leaves of one run, equal for equal cases.
struct Leaves {
    x: Tensor,
    residual: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    var: Tensor,
    dy: Tensor,
}

fn leaves(case: Case, kind: Kind) -> Leaves {
    let n = case.shape.iter().product::<i64>() as usize;
    let c = case.shape[1] as usize;
    let of = |numbers: Vec<f32>| {
        let t = Tensor::from_slice(&numbers).view(case.shape).to_kind(case.kind).to_kind(kind);
        t.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
    };
    let all = random(3 * n, 4.0);
    let channel = |from: f32, amplitude: f32| {
        let numbers: Vec<f32> = random(c + 1, amplitude).into_iter().skip(1).map(|v| from + v).collect();
        Tensor::from_slice(&numbers)
    };
    Leaves {
        // A mean far from 0, as sums of squares would lose it.
        x: of(all[..n].iter().map(|v| v + 20.0).collect()).set_requires_grad(true),
        residual: of(all[n..2 * n].to_vec()).set_requires_grad(true),
        dy: of(all[2 * n..].to_vec()),
        gamma: channel(0.5, 1.0).set_requires_grad(true),
        beta: channel(0.0, 1.0).set_requires_grad(true),
        mean: channel(20.0, 1.0),
        var: channel(4.0, 1.0),
    }
}

fn scale(case: Case) -> Option<Tensor> {
    case.rounds.map(|s| Tensor::from_slice(&[s]))
}

/// `y` and the gradients of `x`, the residual, gamma and beta, then mean and variance as they are afterwards.
fn one_by_one(case: Case, l: &Leaves) -> Vec<Tensor> {
    let mut y = l.x.shallow_clone();
    if let Some(batch) = case.norm {
        y = y.batch_norm(Some(&l.gamma), Some(&l.beta), Some(&l.mean), Some(&l.var), batch, 1.0, EPS, true);
    }
    if case.residual {
        y = &y + &l.residual;
    }
    if let Some(cut) = case.cut {
        y = if cut == RELU { y.relu() } else { y.relu6() };
    }
    if let Some(scale) = scale(case) {
        y = fake_quant(&y, &scale, SCHEME.qmin(), SCHEME.qmax(), false).unwrap();
    }
    finish(case, l, y)
}

const SCHEME: Scheme = Scheme::activation(Sign::Signed);

fn as_one(case: Case, l: &Leaves) -> Vec<Tensor> {
    let scale = scale(case);
    let of = Pointwise {
        norm: case.norm.map(|batch| Norm {
            gamma: &l.gamma,
            beta: &l.beta,
            mean: &l.mean,
            var: &l.var,
            eps: EPS,
            batch,
        }),
        residual: case.residual.then_some(&l.residual),
        cut: case.cut,
        rounding: scale.as_ref().map(|scale| Rounding { scale, scheme: SCHEME, unclipped: false }),
        observe_normed: true,
        observe_last: true,
    };
    let made = pointwise(&l.x, &of).unwrap();
    if case.rounds.is_none() {
        let largest = values(&made.y.abs().max());
        let seen = values(&made.last.unwrap());
        assert!(
            rounded(seen[0], case.kind) == largest[0] && seen[1] == 0.0,
            "{case:?}: {seen:?}, {largest:?}"
        );
    }
    if case.norm.is_none() {
        assert_eq!(values(&made.normed.unwrap())[0], values(&l.x.abs().max())[0]);
    }
    finish(case, l, made.y)
}

fn finish(case: Case, l: &Leaves, y: Tensor) -> Vec<Tensor> {
    let mut by = vec![&l.x];
    if case.residual {
        by.push(&l.residual);
    }
    if case.norm.is_some() {
        by.extend([&l.gamma, &l.beta]);
    }
    // FP32, so that no sum of the test rounds to a narrow type.
    let grads = Tensor::run_backward(
        &[(&y.to_kind(Kind::Float) * &l.dy.to_kind(Kind::Float)).sum(Kind::Float)],
        &by,
        false,
        false,
    );
    let mut all = vec![y.detach()];
    all.extend(grads);
    all.extend([l.mean.copy(), l.var.copy()]);
    all
}

/// The largest difference, as a part of the largest value of `b`.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    let most = b.abs().max().double_value(&[]).max(1e-30);
    (&a - &b).abs().max().double_value(&[]) / most
}

#[test]
fn values_and_gradients_are_those_of_the_operators_one_by_one() {
    for case in cases() {
        // One channel of a single element has no variance to speak of.
        if case.norm == Some(true) && case.shape[0] * case.shape[2] * case.shape[3] < 3 {
            continue;
        }
        // Against FP32 arithmetic on the same numbers: libtorch rounds after each operator, one operator only at its end.
        let (exact, got) =
            (one_by_one(case, &leaves(case, Kind::Float)), as_one(case, &leaves(case, case.kind)));
        assert_eq!(exact.len(), got.len());
        assert_eq!(got[0].kind(), case.kind);
        let unit = match case.kind {
            Kind::Float => 2e-5,
            Kind::BFloat16 => 6e-3,
            _ => 1e-3,
        };
        for (i, (e, g)) in exact.iter().zip(&got).enumerate() {
            assert_eq!(e.size(), g.size());
            // A value that lies on a bound may fall on either side of it, and then counts, or not, in its channel's sums.
            let bounded = case.cut.is_some() || case.rounds.is_some();
            let rows = (case.shape[0] * case.shape[2] * case.shape[3]) as f64;
            let tolerance = match i {
                0 if case.rounds.is_some() => step_of(case, e) + unit,
                0 => unit,
                1 if bounded && case.norm.is_some() => unit + 2.0 / rows,
                _ if bounded && case.norm.is_some() => unit + 2e-2,
                _ => unit,
            };
            let d = if i > 0 && bounded { mostly(e, g) } else { apart(g, e) };
            assert!(d <= tolerance, "{case:?}: tensor {i} differs by {d:e}");
        }
    }
}

/// One code, as a part of the largest value.
fn step_of(case: Case, y: &Tensor) -> f64 {
    f64::from(case.rounds.unwrap()) / y.abs().max().double_value(&[]).max(1e-30)
}

/// As [`apart`], but for one element in a thousand, or one: a value that lies on a bound may fall on either side of it.
fn mostly(exact: &Tensor, got: &Tensor) -> f64 {
    let (e, g) = (exact.to_kind(Kind::Double).flatten(0, -1), got.to_kind(Kind::Double).flatten(0, -1));
    let (sorted, _) = (&e - &g).abs().sort(0, true);
    let skipped = 1.max(e.numel() as i64 / 1000).min(e.numel() as i64 - 1);
    sorted.double_value(&[skipped]) / e.abs().max().double_value(&[]).max(1e-30)
}

/// Values and gradients of a chain with all parts.
pub(super) fn of_a_chain(kind: Kind) -> Vec<Tensor> {
    let case = Case {
        kind,
        shape: [3, 37, 9, 11],
        norm: Some(true),
        residual: true,
        cut: Some(RELU6),
        rounds: Some(0.02),
    };
    as_one(case, &leaves(case, kind))
}

#[test]
fn threads_and_memory_order_do_not_matter() {
    let case = Case {
        kind: Kind::BFloat16,
        shape: [5, 96, 33, 31],
        norm: Some(true),
        residual: true,
        cut: Some(RELU),
        rounds: Some(0.02),
    };
    let run = |contiguous: bool, threads: i32| {
        let before = tch::get_num_threads();
        tch::set_num_threads(threads);
        let mut l = leaves(case, case.kind);
        if contiguous {
            l.x = l.x.detach().contiguous().set_requires_grad(true);
            l.residual = l.residual.detach().contiguous().set_requires_grad(true);
        }
        let all: Vec<Vec<f32>> = as_one(case, &l).iter().map(values).collect();
        tch::set_num_threads(before);
        all
    };
    let first = run(false, 1);
    assert!(first == run(false, 2) && first == run(true, 1));
}

#[test]
fn numbers_that_are_not_finite_are_counted_and_stay() {
    let x = Tensor::from_slice(&[1.0f32, f32::NAN, f32::INFINITY, -3.0]).view([1, 2, 1, 2]);
    let of = Pointwise { cut: Some(RELU), observe_last: true, ..Pointwise::default() };
    let made = pointwise(&x, &of).unwrap();
    let y = values(&made.y);
    assert!(y[0] == 1.0 && y[1].is_nan() && y[2] == f32::INFINITY && y[3] == 0.0);
    assert_eq!(values(&made.last.unwrap()), [1.0, 2.0]);
    let (mean, var, one) = (
        Tensor::zeros([2], (Kind::Float, Device::Cpu)),
        Tensor::zeros([2], (Kind::Float, Device::Cpu)),
        Tensor::ones([2], (Kind::Float, Device::Cpu)),
    );
    let norm = Norm { gamma: &one, beta: &one, mean: &mean, var: &var, eps: EPS, batch: true };
    pointwise(&x, &Pointwise { norm: Some(norm), ..Pointwise::default() }).unwrap();
    assert!(values(&var).iter().all(|v| v.is_nan()), "the batch's variance hides no NaN and no infinity");
}

#[test]
fn what_does_not_fit_is_refused() {
    let x = Tensor::zeros([1, 2, 3, 3], (Kind::Float, Device::Cpu));
    let other = Tensor::zeros([1, 2, 3, 1], (Kind::Float, Device::Cpu));
    let of = |t| Pointwise { residual: Some(t), ..Pointwise::default() };
    assert!(pointwise(&x, &of(&other)).is_err());
    assert!(pointwise(&x, &of(&x.to_kind(Kind::Half))).is_err());
    assert!(pointwise(&x.flatten(0, -1), &Pointwise::default()).is_err());
    assert!(pointwise(&x.to_kind(Kind::Int64), &Pointwise::default()).is_err());
}
