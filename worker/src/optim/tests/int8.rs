//! A step whose forward is computed on INT8 codes against the same step in floating point, and against itself operator by operator.

use super::fused::one_step;
use super::*;
use crate::native::int8_products;
use crate::strategy::{Amp, Layout};

/// Steps are alike but for values between two codes, which may become either of them.
fn alike(
    what: &str,
    (loss, one): &(f64, Vec<(String, Tensor)>),
    (other_loss, other): &(f64, Vec<(String, Tensor)>),
) {
    assert!((loss - other_loss).abs() <= 1e-3 * loss, "{what}: loss {loss}, {other_loss}");
    assert_eq!(one.len(), other.len());
    for ((name, a), (_, b)) in one.iter().zip(other) {
        let norm = |t: Tensor| t.to_kind(Kind::Double).norm().double_value(&[]);
        let (off, all) = (norm(a - b), norm(b.copy()));
        assert!(off <= 5e-2 * all + 1e-6, "{what}, {name}: {off:e} of {all:e}");
    }
}

#[test]
fn a_step_on_codes_is_the_step_of_what_they_stand_for() {
    if !int8_products() {
        return eprintln!("SKIPPED: this CPU has no VNNI");
    }
    let recipes = [
        Qat::default(),
        Qat { target: Target::Onnxruntime, ..Qat::default() },
        Qat { target: Target::Tensorrt, ..Qat::default() },
        Qat { weight_bits: 7, reduce_range: true, ..Qat::default() },
    ];
    for qat in recipes {
        let step = |watched, int8| one_step(Some(qat.clone()), watched, int8);
        let (float, codes, apart) = (step(false, false), step(false, true), step(true, true));
        let moved = float.1.iter().zip(&codes.1).filter(|((_, a), (_, b))| !a.equal(b)).count();
        assert!(
            moved > 0,
            "sums of codes are rounded once, and otherwise than those of floating point: {qat:?}"
        );
        alike(&format!("codes and floating point, {qat:?}"), &codes, &float);
        alike(&format!("fused and apart, {qat:?}"), &codes, &apart);
    }
    // A learned scale's gradient is a sum of rounding errors; the rest is alike.
    let learns = Some(Qat { learn_scales: true, ..Qat::default() });
    let [float, codes] = [false, true].map(|int8| {
        let (loss, mut all) = one_step(learns.clone(), false, int8);
        all.retain(|(name, _)| name != "ranges");
        (loss, all)
    });
    alike("learned scales", &codes, &float);
}

#[test]
fn what_cannot_be_computed_on_codes_is_refused() {
    let refused = |strategy: Strategy| {
        let optimizer = DistributedOptimizer::new(Sgd::default(), strategy, Box::new(Local));
        match optimizer.int8_forward(true).minimize(network(), CrossEntropy::default()) {
            Err(OptimError::Int8Forward { why }) => why,
            other => panic!("{:?}", other.err()),
        }
    };
    if !int8_products() {
        let why =
            refused(Strategy { layout: Layout::Nhwc, qat: Some(Qat::default()), ..Strategy::default() });
        return assert!(why.contains("has no VNNI"), "{why}");
    }
    for (strategy, said) in [
        (Strategy { layout: Layout::Nhwc, ..Strategy::default() }, "its weight is not quantized"),
        (
            Strategy { layout: Layout::Nchw, qat: Some(Qat::default()), ..Strategy::default() },
            "in layout NCHW",
        ),
        (Strategy { layout: Layout::Nhwc, amp: Amp::Fp16, qat: Some(Qat::default()) }, "computes in FP16"),
    ] {
        let why = refused(strategy);
        assert!(why.starts_with("no layer of the network can; of ") && why.contains(said), "{why}");
    }
}
