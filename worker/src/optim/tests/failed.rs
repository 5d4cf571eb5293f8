//! What is left of what failed.

use super::*;
use crate::exec::ExecError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Gives ranges in calibration that are good, but for the third.
struct Spoils(AtomicUsize);

impl RangeObserver for Spoils {
    fn wants_histogram(&self) -> bool {
        false
    }

    fn calibrated(&self, _: Scheme, _: &[f32], _: &mut dyn FnMut() -> Histogram) -> f32 {
        let third = self.0.fetch_add(1, Ordering::Relaxed) == 2;
        if third { f32::NAN } else { 1.0 }
    }

    fn moved(&self, old: f32, _: f32) -> f32 {
        old
    }
}

#[test]
fn a_calibration_sets_all_ranges_or_none() {
    let mut program = program(Some(Qat::default()), Spoils(0.into())).unwrap();
    let refused = program.calibrate(Before::Training, &[(0, images())], 1, &|| false);
    assert!(matches!(refused, Err(OptimError::Range { .. })), "{refused:?}");
    assert!(program.weights.ranges_host().unwrap().iter().all(Option::is_none));
}

#[test]
fn of_a_step_that_is_refused_nothing_stays_but_the_ranges_it_has_calibrated() {
    let mut program = program(Some(Qat::default()), Gives(3.0, f32::NAN)).unwrap();
    let state = |p: &Program| (p.weights.flat.copy(), p.weights.buffers.copy(), p.global_step);
    let before = state(&program);
    assert!(matches!(step(&mut program), Err(OptimError::Range { .. })));
    assert_eq!(state(&program), before);
    assert!(program.weights.ranges_host().unwrap().iter().all(|r| *r == Some(3.0)));
}

#[test]
fn a_step_is_gone_through_again_only_with_ranges_that_are_known() {
    let mut program = program(Some(Qat::default()), Gives(3.0, 3.0)).unwrap();
    let (images, labels) = (images(), Tensor::zeros([4], (Kind::Int64, Device::Cpu)));
    let batch = [Microbatch { images: &images, labels: &labels }];
    let mut nodes = 0;
    let refused = program.watch_step(&batch, &mut |_, _| nodes += 1);
    assert!(matches!(refused, Err(OptimError::Exec(ExecError::NoRange(_)))), "{refused:?}");
    assert!(program.calibrate(Before::Training, &[(0, images.shallow_clone())], 1, &|| false).unwrap());
    let before = (program.weights.flat.copy(), program.weights.ranges_host().unwrap());
    program.watch_step(&batch, &mut |_, _| nodes += 1).unwrap();
    assert_eq!(nodes, program.graph().nodes.len());
    assert_eq!((program.weights.flat.copy(), program.weights.ranges_host().unwrap()), before);
}
