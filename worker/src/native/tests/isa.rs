//! The loops for AVX-512, AVX2 and plain x86-64 give the same bits.

use super::*;
use std::ffi::CStr;

unsafe extern "C" {
    fn octrain_force_isa(isa: i32) -> bool;
    fn octrain_isa() -> *const c_char;
}

/// Makes the operator use `isa` (2 AVX-512, 1 AVX2, 0 portable, -1 the best); false where this CPU lacks it. Other
/// tests that run meanwhile use it too, which must not matter to them.
fn force(isa: i32) -> bool {
    // SAFETY: sets an atomic pointer.
    unsafe { octrain_force_isa(isa) }
}

fn isa() -> String {
    // SAFETY: returns a static C string.
    unsafe { CStr::from_ptr(octrain_isa()) }.to_string_lossy().into_owned()
}

/// Memory words of a tensor.
fn words(t: &Tensor) -> Vec<i64> {
    let word = if t.kind() == Kind::Float { Kind::Int } else { Kind::Int16 };
    let words = t.detach().contiguous().view_dtype(word).to_kind(Kind::Int64);
    Vec::<i64>::try_from(&words.flatten(0, -1)).unwrap()
}

/// All that the operator gives for the corpus of `kind`.
fn all_results(kind: Kind) -> Vec<Vec<i64>> {
    let x = corpus(kind).set_requires_grad(true);
    let dy = corpus(kind).flip([0i64]);
    let finite = dy.isfinite().logical_and(&x.isfinite());
    let mut results = Vec::new();
    for (scale, qmin, qmax) in
        [(0.013f32, -127, 127), (0.013, 0, 255), (1e-30, 0, 127), (1e-7 / 127.0, -63, 63), (1e30, -127, 127)]
    {
        let scales = Tensor::from_slice(&[scale]).set_requires_grad(true);
        let (y, seen) = observe_fake_quant(&x, &scales, qmin, qmax, false).unwrap();
        let dx = gradients(&y, &dy, &[&x]).remove(0);
        results.extend([&y, &seen, &abs_max(&x).unwrap(), &dx].map(words));
        let part = x.masked_select(&finite).detach().set_requires_grad(true);
        let y = fake_quant_learned(&part, &scales, qmin, qmax, 1e-3).unwrap();
        let got = gradients(&y, &dy.masked_select(&finite), &[&part, &scales]);
        assert!(!values(&got[1])[0].is_nan());
        results.extend([&y, &got[0], &got[1]].map(words));
    }
    results.extend(pointwise::of_a_chain(kind).iter().map(words));
    let bits = |all: &Vec<f32>| all.iter().map(|v| i64::from(v.to_bits())).collect();
    results.extend(pointwise::of_a_chain_for_two(kind).iter().map(bits));
    results.extend(depthwise::of_all_cases(kind).iter().map(words));
    results.extend(int8::of_weights(kind).iter().map(words));
    results.extend(int8::of_codes(kind).iter().map(words));
    results
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let names = ["portable", "avx2", "avx512"];
    let mut found = Vec::new();
    for (i, name) in names.iter().enumerate() {
        if force(i as i32) {
            assert_eq!(isa(), *name);
            found.push((name, KINDS.map(all_results)));
            assert_eq!(isa(), *name, "nobody else forces one");
        } else {
            skipped(&format!("{name}: this CPU lacks it"));
        }
    }
    assert!(force(-1));
    assert_eq!(isa(), *found.last().unwrap().0, "the best one is chosen");
    for (name, results) in &found[1..] {
        for ((kind, got), want) in KINDS.iter().zip(results).zip(&found[0].1) {
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let at = got.iter().zip(want).position(|(g, w)| g != w);
                assert_eq!(at, None, "{name}, {kind:?}, result {i}: an element differs");
                assert_eq!(got.len(), want.len());
            }
        }
    }
}
