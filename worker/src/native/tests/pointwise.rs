//! Chains of operators as one, against libtorch's operators one by one and against each other.

use super::super::{Cut, Norm, Pointwise, Rounding, fake_quant, pointwise};
use super::*;
use crate::quant::scheme::{Scheme, Sign};

pub(super) const RELU: Cut = Cut { low: 0.0, high: f32::INFINITY, strict: true };
const RELU6: Cut = Cut { low: 0.0, high: 6.0, strict: true };
const CLIP: Cut = Cut { low: -1.0, high: 2.0, strict: false };
pub(super) const EPS: f64 = 1e-5;

/// What a case is made of: which parts the chain has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub kind: Kind,
    /// `[N, C, H, W]`.
    pub shape: [i64; 4],
    /// Whether there is a BatchNorm, and whether by the batch's statistics.
    pub norm: Option<bool>,
    pub residual: bool,
    pub cut: Option<Cut>,
    /// Scale of the quantizer.
    pub rounds: Option<f32>,
    /// Whether the gradient passes where it clamps.
    pub unclipped: bool,
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![];
    for kind in KINDS {
        for shape in
            [[2, 16, 5, 7], [3, 5, 3, 3], [1, 300, 4, 4], [5, 96, 33, 31], [4, 1, 9, 1], [2, 7, 1, 1]]
        {
            for norm in [None, Some(false), Some(true)] {
                for residual in [false, true] {
                    for (cut, rounds, unclipped) in [
                        (None, None, false),
                        (Some(RELU), None, false),
                        (Some(CLIP), None, false),
                        (Some(RELU6), Some(0.02), false),
                        (None, Some(0.03), false),
                        (Some(RELU), Some(0.02), true),
                    ] {
                        all.push(Case { kind, shape, norm, residual, cut, rounds, unclipped });
                    }
                }
            }
        }
    }
    all
}

/// Leaves of one run, equal for equal cases.
pub(super) struct Leaves {
    pub x: Tensor,
    pub residual: Tensor,
    pub gamma: Tensor,
    pub beta: Tensor,
    pub mean: Tensor,
    pub var: Tensor,
    pub dy: Tensor,
}

pub(super) fn leaves(case: Case, kind: Kind) -> Leaves {
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
        x: of(all[..n].iter().map(|v| v + centre(case)).collect()).set_requires_grad(true),
        residual: of(all[n..2 * n].to_vec()).set_requires_grad(true),
        dy: of(all[2 * n..].to_vec()),
        gamma: channel(0.5, 1.0).set_requires_grad(true),
        beta: channel(0.0, 1.0).set_requires_grad(true),
        mean: channel(20.0, 1.0),
        var: channel(4.0, 1.0),
    }
}

/// Mean of `x`: far from 0 where it is normalised, as sums of squares would lose that; elsewhere where both bounds cut.
fn centre(case: Case) -> f32 {
    match (case.norm, case.cut) {
        (Some(_), _) => 20.0,
        (None, Some(RELU6)) => 3.0,
        _ => 0.0,
    }
}

pub(super) fn scale(case: Case) -> Option<Tensor> {
    case.rounds.map(|s| Tensor::from_slice(&[s]))
}

/// What the normalisation makes.
fn normed(case: Case, l: &Leaves) -> Tensor {
    let Some(batch) = case.norm else { return l.x.shallow_clone() };
    l.x.batch_norm(Some(&l.gamma), Some(&l.beta), Some(&l.mean), Some(&l.var), batch, 1.0, EPS, true)
}

/// What the activation gets.
fn before_the_cut(case: Case, l: &Leaves) -> Tensor {
    let y = normed(case, l);
    if case.residual { &y + &l.residual } else { y }
}

/// The activation, as libtorch has it.
fn cut(cut: Option<Cut>, y: &Tensor) -> Tensor {
    match cut {
        None => y.shallow_clone(),
        Some(RELU) => y.relu(),
        Some(RELU6) => y.relu6(),
        Some(other) => y.clamp(f64::from(other.low), f64::from(other.high)),
    }
}

/// Gradients of the result: 0 where a value lies next to a bound, of which the last bit decides on which side it is.
fn away_from_bounds(case: Case, l: &mut Leaves) {
    let exact = leaves(case, Kind::Float);
    let x = before_the_cut(case, &exact).detach();
    let mut bounds = case.cut.map_or(vec![], |cut| vec![cut.low, cut.high]);
    if let Some(scale) = case.rounds {
        bounds.extend([SCHEME.qmin() as f32 - 0.5, SCHEME.qmax() as f32 + 0.5].map(|code| code * scale));
    }
    for bound in bounds.into_iter().filter(|b| b.is_finite()) {
        let away = (&x - f64::from(bound)).abs().gt(1e-3);
        l.dy = &l.dy * away.to_kind(l.dy.kind());
    }
}

/// `y` and the gradients of `x`, the residual, gamma and beta, then mean and variance as they are afterwards.
fn one_by_one(case: Case, l: &Leaves) -> Vec<Tensor> {
    let mut y = cut(case.cut, &before_the_cut(case, l));
    if let Some(scale) = scale(case) {
        y = fake_quant(&y, &scale, SCHEME.qmin(), SCHEME.qmax(), case.unclipped).unwrap();
    }
    finish(case, l, y)
}

pub(super) const SCHEME: Scheme = Scheme::activation(Sign::Signed);

/// How a chain runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// The CPU's loops.
    Loops,
    /// The kernels of GPUs, emulated, in one of several grids.
    Kernels(usize),
}

fn as_one(case: Case, l: &Leaves, by: By) -> Vec<Tensor> {
    let scale = scale(case);
    let zeros = || Tensor::zeros([2], (Kind::Float, Device::Cpu));
    let (normed_seen, last_seen) = (zeros(), zeros());
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
        rounding: scale.as_ref().map(|scale| Rounding { scale, scheme: SCHEME, unclipped: case.unclipped }),
        normed: Some(&normed_seen),
        last: Some(&last_seen),
    };
    let y = match by {
        By::Loops => pointwise(&l.x, &of).unwrap(),
        By::Kernels(grid) => emulated::chain(&l.x, &of, grid),
    };
    if case.rounds.is_none() {
        let largest = values(&y.abs().max());
        let seen = values(&last_seen);
        assert!(
            rounded(seen[0], case.kind) == largest[0] && seen[1] == 0.0,
            "{case:?}: {seen:?}, {largest:?}"
        );
    }
    let seen = f64::from(values(&normed_seen)[0]);
    let exact = normed(case, &leaves(case, Kind::Float)).abs().max().double_value(&[]);
    assert!((seen / exact - 1.0).abs() <= 5e-5, "{case:?}: {seen}, {exact}");
    finish(case, l, y)
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
        compare(case, By::Loops);
    }
}

#[test]
fn the_kernels_of_gpus_give_them_too() {
    // Rows of whole eights or not, channels in one tile or several.
    let shapes = [
        [2, 16, 5, 7],
        [3, 5, 3, 3],
        [1, 300, 4, 4],
        [2, 264, 3, 5],
        [2, 7, 1, 1],
        [3, 24, 17, 11],
        [4, 1, 9, 1],
    ];
    let of_a_shape = cases().into_iter().filter(|c| c.shape == [2, 16, 5, 7]);
    let all = of_a_shape.flat_map(|case| shapes.map(|shape| Case { shape, ..case }));
    for (i, case) in all.enumerate() {
        compare(case, By::Kernels(i));
    }
    for kind in [Kind::Float, Kind::BFloat16] {
        let (norm, cut) = (Some(true), Some(RELU));
        compare(
            Case { kind, shape: PIECES, norm, residual: true, cut, rounds: None, unclipped: false },
            By::Kernels(3),
        );
    }
}

/// Images whose sums go by several pieces.
pub(super) const PIECES: [i64; 4] = [5, 96, 15, 31];

#[test]
fn no_grid_changes_a_bit_and_without_sums_the_kernels_and_the_loops_are_equal() {
    for kind in KINDS {
        for shape in [[3, 24, 9, 11], [3, 37, 9, 11], PIECES] {
            for norm in [Some(true), Some(false), None] {
                let (cut, rounds) = (Some(RELU6), Some(0.02));
                let case = Case { kind, shape, norm, residual: true, cut, rounds, unclipped: false };
                let of = |by| as_one(case, &leaves(case, kind), by).iter().map(values).collect::<Vec<_>>();
                let first = of(By::Kernels(0));
                assert!((1..4).all(|grid| of(By::Kernels(grid)) == first), "{case:?}");
                // Of y, and the gradients of x and of the residual.
                let loops = of(By::Loops);
                assert!(norm == Some(true) || first[..3] == loops[..3], "{case:?}");
            }
        }
    }
}

/// One case against FP32 arithmetic, operator by operator.
fn compare(case: Case, by: By) {
    // One channel of a single element has no variance to speak of.
    if case.norm == Some(true) && case.shape[0] * case.shape[2] * case.shape[3] < 3 {
        return;
    }
    // Against FP32 arithmetic on the same numbers: libtorch rounds after each operator, one operator only at its end.
    let (mut plain, mut fused) = (leaves(case, Kind::Float), leaves(case, case.kind));
    away_from_bounds(case, &mut plain);
    away_from_bounds(case, &mut fused);
    let (exact, got) = (one_by_one(case, &plain), as_one(case, &fused, by));
    assert_eq!(exact.len(), got.len());
    assert_eq!(got[0].kind(), case.kind);
    let unit = match case.kind {
        Kind::Float => 5e-5,
        Kind::BFloat16 => 6e-3,
        _ => 1e-3,
    };
    for (i, (e, g)) in exact.iter().zip(&got).enumerate() {
        assert_eq!(e.size(), g.size());
        let tolerance = if i == 0 && case.rounds.is_some() { step_of(case, e) + unit } else { unit };
        let d = apart(g, e);
        assert!(d <= tolerance, "{case:?}, {by:?}: tensor {i} differs by {d:e}");
    }
}

/// One code, as a part of the largest value.
fn step_of(case: Case, y: &Tensor) -> f64 {
    f64::from(case.rounds.unwrap()) / y.abs().max().double_value(&[]).max(1e-30)
}

/// A chain with all parts.
fn with_all_parts(kind: Kind) -> Case {
    Case {
        kind,
        shape: [3, 37, 9, 11],
        norm: Some(true),
        residual: true,
        cut: Some(RELU6),
        rounds: Some(0.02),
        unclipped: false,
    }
}

/// Its values and gradients, where one reads it.
pub(super) fn of_a_chain(kind: Kind) -> Vec<Tensor> {
    let case = with_all_parts(kind);
    as_one(case, &leaves(case, kind), By::Loops)
}

/// The same where two do.
pub(super) fn of_a_chain_for_two(kind: Kind) -> Vec<Vec<f32>> {
    super::two_readers::read_by_two(with_all_parts(kind), By::Loops, true)
}

#[test]
fn values_on_a_bound_and_those_that_are_not_finite_are_cut_and_pass_their_gradient_as_in_libtorch() {
    let below = |x: f32| f32::from_bits(x.to_bits() - 1);
    let above = |x: f32| f32::from_bits(x.to_bits() + 1);
    // Codes 127 and 127.5 of the scale 0.25 are 31.75 and 31.875.
    let of = |x: f32| [x, -x, below(x), above(x), -below(x), -above(x)];
    let mut x: Vec<f32> = [1.0f32, 2.0, 6.0, 31.75, 31.875, 0.125, 0.375].into_iter().flat_map(of).collect();
    x.extend([0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, f32::from_bits(1)]);
    let scale = Tensor::from_slice(&[0.25f32]);
    for activation in [None, Some(RELU), Some(RELU6), Some(CLIP)] {
        for (rounds, unclipped) in [(false, false), (true, false), (true, true)] {
            let leaf = || Tensor::from_slice(&x).view([1, -1, 1, 1]).set_requires_grad(true);
            let (a, b) = (leaf(), leaf());
            let rounding = rounds.then_some(Rounding { scale: &scale, scheme: SCHEME, unclipped });
            let of = Pointwise { cut: activation, rounding, ..Pointwise::default() };
            let got = pointwise(&a, &of).unwrap();
            let c = leaf();
            let kernels = emulated::chain(&c, &of, 1);
            assert!(values(&kernels).iter().zip(&values(&got)).all(|(a, b)| same(*a, *b)));
            let mut want = cut(activation, &b);
            if rounds {
                want = fake_quant(&want, &scale, SCHEME.qmin(), SCHEME.qmax(), unclipped).unwrap();
            }
            let dy = a.ones_like();
            let at = format!("{activation:?}, {rounds}, {unclipped}");
            let of = |y: &Tensor, x: &Tensor| match y.requires_grad() && (activation.is_some() || rounds) {
                true => values(&gradients(y, &dy, &[x]).remove(0)),
                false => vec![],
            };
            for (i, (got, want)) in values(&got).iter().zip(&values(&want)).enumerate() {
                assert!(same(*got, *want), "{at}: {:e} gives {got:e}, not {want:e}", x[i]);
            }
            let passed = of(&got, &a);
            assert_eq!(of(&kernels, &c), passed, "{at}, the kernels");
            for (i, (got, want)) in passed.iter().zip(&of(&want, &b)).enumerate() {
                // Between two finite bounds libtorch's loops of vectors and of single values differ about NaN.
                let undecided = x[i].is_nan() && activation.is_some_and(|cut| cut.high.is_finite());
                assert!(undecided || same(*got, *want), "{at}: {:e} passes {got:e}, not {want:e}", x[i]);
            }
        }
    }
}

#[test]
fn of_no_images_there_is_nothing_but_statistics() {
    let x = Tensor::zeros([0, 2, 3, 3], (Kind::Float, Device::Cpu));
    let seen = Tensor::zeros([2], (Kind::Float, Device::Cpu));
    let of = Pointwise { cut: Some(RELU), last: Some(&seen), ..Pointwise::default() };
    assert_eq!((pointwise(&x, &of).unwrap().size(), values(&seen)), (vec![0, 2, 3, 3], vec![0.0, 0.0]));
    let [one, var] = [1.0, 0.5].map(|v| Tensor::full([2], v, (Kind::Float, Device::Cpu)));
    let norm = |batch| Norm { gamma: &one, beta: &one, mean: &one, var: &var, eps: EPS, batch };
    assert!(pointwise(&x, &Pointwise { norm: Some(norm(false)), ..Pointwise::default() }).is_ok());
    assert!(pointwise(&x, &Pointwise { norm: Some(norm(true)), ..Pointwise::default() }).is_err());
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
        unclipped: false,
    };
    let run = |contiguous: bool, threads: i32| {
        let before = tch::get_num_threads();
        tch::set_num_threads(threads);
        let mut l = leaves(case, case.kind);
        if contiguous {
            l.x = l.x.detach().contiguous().set_requires_grad(true);
            l.residual = l.residual.detach().contiguous().set_requires_grad(true);
        }
        let all: Vec<Vec<f32>> = as_one(case, &l, By::Loops).iter().map(values).collect();
        tch::set_num_threads(before);
        all
    };
    let first = run(false, 1);
    assert!(first == run(false, 2) && first == run(true, 1));
}

#[test]
fn numbers_that_are_not_finite_are_counted_and_stay() {
    let x = Tensor::from_slice(&[1.0f32, f32::NAN, f32::INFINITY, -3.0]).view([1, 2, 1, 2]);
    let seen = Tensor::from_slice(&[0.5f32, 3.0]);
    let of = Pointwise { cut: Some(RELU), last: Some(&seen), ..Pointwise::default() };
    let y = values(&pointwise(&x, &of).unwrap());
    assert!(y[0] == 1.0 && y[1].is_nan() && y[2] == f32::INFINITY && y[3] == 0.0);
    assert_eq!(values(&seen), [1.0, 5.0], "what was seen before is raised");
    let (mean, var, one) = (
        Tensor::zeros([2], (Kind::Float, Device::Cpu)),
        Tensor::zeros([2], (Kind::Float, Device::Cpu)),
        Tensor::ones([2], (Kind::Float, Device::Cpu)),
    );
    let norm = Norm { gamma: &one, beta: &one, mean: &mean, var: &var, eps: EPS, batch: true };
    drop(pointwise(&x, &Pointwise { norm: Some(norm), ..Pointwise::default() }).unwrap());
    assert!(values(&var).iter().all(|v| v.is_nan()), "the batch's variance hides no NaN and no infinity");
}

/// A quantizer alone.
fn rounding(scale: &Tensor) -> Pointwise<'_> {
    let rounding = Some(Rounding { scale, scheme: SCHEME, unclipped: false });
    Pointwise { rounding, ..Pointwise::default() }
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
    let scale = Tensor::from_slice(&[0.5f32]);
    assert!(pointwise(&x, &rounding(&scale)).is_ok());
    for bad in [scale.narrow(0, 0, 0), scale.to_kind(Kind::Half), scale.copy().set_requires_grad(true)] {
        assert!(pointwise(&x, &rounding(&bad)).is_err());
    }
}

#[test]
fn a_gradient_that_is_to_be_differentiated_is_refused() {
    let x = Tensor::ones([1, 2, 3, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let scale = Tensor::from_slice(&[0.5f32]);
    for chain in [Pointwise::default(), rounding(&scale)] {
        let y = pointwise(&x, &chain).unwrap().sum(Kind::Float);
        let told = Tensor::f_run_backward(&[&y], &[&x], true, true).unwrap_err().to_string();
        assert!(told.contains("differentiated twice") && told.contains("one by one"), "{told}");
        assert!(Tensor::f_run_backward(&[&y], &[&x], false, false).is_ok(), "once it can be");
    }
}
