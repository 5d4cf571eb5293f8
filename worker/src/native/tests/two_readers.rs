//! Chains whose value two read.

use super::super::{Norm, Pointwise, Rounding, pointwise, pointwise_for_two};
use super::pointwise::{By, Case, EPS, PIECES, RELU, SCHEME, cases, leaves, scale};
use super::*;

/// `y` and the gradients of all leaves where two read it: each its own, or both the same one, whose gradients autograd adds up.
pub(super) fn read_by_two(case: Case, by: By, apart: bool) -> Vec<Vec<f32>> {
    let l = leaves(case, case.kind);
    let scale = scale(case);
    let (mean, var) = (&l.mean, &l.var);
    let of = Pointwise {
        norm: case.norm.map(|batch| Norm { gamma: &l.gamma, beta: &l.beta, mean, var, eps: EPS, batch }),
        residual: case.residual.then_some(&l.residual),
        cut: case.cut,
        rounding: scale.as_ref().map(|scale| Rounding { scale, scheme: SCHEME, unclipped: case.unclipped }),
        ..Pointwise::default()
    };
    let [first, second] = match (by, apart) {
        (By::Loops, true) => pointwise_for_two(&l.x, &of).unwrap(),
        (By::Kernels(grid), true) => emulated::chain_for_two(&l.x, &of, grid),
        (By::Loops, false) => {
            let y = pointwise(&l.x, &of).unwrap();
            [y.shallow_clone(), y]
        }
        (By::Kernels(grid), false) => {
            let y = emulated::chain(&l.x, &of, grid);
            [y.shallow_clone(), y]
        }
    };
    assert_eq!(first.data_ptr(), second.data_ptr(), "no copy is made");
    // Gradients whose sum has to be rounded.
    let given = |y: &Tensor, dy: &Tensor| (y * dy).sum(Kind::Float);
    let loss = given(&first, &l.dy) + given(&second, &(&l.dy * 0.37 + 0.011).to_kind(case.kind));
    let mut wanted = vec![&l.x];
    wanted.extend(case.residual.then_some(&l.residual));
    wanted.extend(case.norm.map(|_| [&l.gamma, &l.beta]).into_iter().flatten());
    if apart {
        let given = Tensor::run_backward(&[&loss], &[&first, &second], true, false);
        let equal = |a: &Tensor, b: &Tensor| values(a) == values(b);
        assert!(equal(&given[0], &l.dy) && !equal(&given[0], &given[1]), "each has a gradient of its own");
    }
    let grads = Tensor::run_backward(&[loss], &wanted, false, false);
    std::iter::once(first.detach()).chain(grads).map(|t| values(&t)).collect()
}

#[test]
fn of_two_readers_the_gradients_are_added_to_the_bits_of_autograd_s_sum() {
    let pieces = [Kind::Float, Kind::BFloat16].map(|kind| Case {
        kind,
        shape: PIECES,
        norm: Some(true),
        residual: true,
        cut: Some(RELU),
        rounds: None,
        unclipped: false,
    });
    for (i, case) in cases().into_iter().chain(pieces).enumerate() {
        if case.norm == Some(true) && case.shape[0] * case.shape[2] * case.shape[3] < 3 {
            continue;
        }
        // Kernels are slow on a CPU: of rows of whole eights, of others, and of several pieces.
        let emulated = [[2, 16, 5, 7], [3, 5, 3, 3], PIECES].contains(&case.shape);
        for by in [By::Loops, By::Kernels(i)].into_iter().take(if emulated { 2 } else { 1 }) {
            let (with, without) = (read_by_two(case, by, true), read_by_two(case, by, false));
            let equal =
                |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b));
            assert!(with.iter().zip(&without).all(|(a, b)| equal(a, b)), "{case:?}, {by:?}");
            assert!(with[1].iter().any(|v| *v != 0.0), "{case:?}: nothing passes");
        }
    }
}

#[test]
fn gradients_in_another_memory_order_are_added_all_the_same() {
    let x = Tensor::from_slice(&random(48, 2.0)).view([1, 3, 4, 4]).set_requires_grad(true);
    let ones = Tensor::ones([3], (Kind::Float, Device::Cpu));
    let zeros = Tensor::zeros([3], (Kind::Float, Device::Cpu));
    let [mean, var] = [&zeros, &ones].map(Tensor::copy);
    let norm = Norm { gamma: &ones, beta: &zeros, mean: &mean, var: &var, eps: EPS, batch: true };
    let of = Pointwise { norm: Some(norm), cut: Some(RELU), ..Pointwise::default() };
    let by = |of_two: [Tensor; 2]| {
        // Of a mean over pixels the gradient is in the other order.
        let pooled = of_two[0].adaptive_avg_pool2d([1, 1]).sum(Kind::Float);
        let loss = pooled + (&of_two[1] * &of_two[1]).sum(Kind::Float);
        values(&Tensor::run_backward(&[loss], &[&x], false, false)[0])
    };
    let one = pointwise(&x, &of).unwrap();
    assert_eq!(by(pointwise_for_two(&x, &of).unwrap()), by([one.shallow_clone(), one]));
}

#[test]
fn of_two_handles_either_may_be_left_unused() {
    let x = Tensor::from_slice(&[1.0f32, -1.0, 2.0, 0.5]).view([1, 2, 1, 2]).set_requires_grad(true);
    let of = Pointwise { cut: Some(RELU), ..Pointwise::default() };
    for used in 0..2 {
        let both = pointwise_for_two(&x, &of).unwrap();
        assert_eq!(values(&gradients(&both[used], &both[used].ones_like(), &[&x])[0]), [1.0, 0.0, 1.0, 1.0]);
    }
    let [y, second] = tch::no_grad(|| pointwise_for_two(&x, &of)).unwrap();
    assert_eq!((values(&second), second.data_ptr()), (vec![1.0, 0.0, 2.0, 0.5], y.data_ptr()));
}
