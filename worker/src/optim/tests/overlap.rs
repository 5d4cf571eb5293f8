//! Gradients that leave while backward still runs are the same numbers, and a step that fails in the middle changes nothing.

use super::departures::Departures;
use super::gradient_buffer::GradientBuffer;
use super::*;
use crate::collective::{
    Abort, Calls, Cause, CollectiveError, Counted, Fault, Faulty, Gloo, MemoryStore, Whereabouts,
};
use crate::strategy::{Amp, Averaging, ReduceType};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(120);
const MICROBATCHES: usize = 4;
const BUCKET: usize = 1 << 17;

/// Runs `f` on so many ranks, as threads that are a Gloo group, each with one thread of its own: more than there are cores would
/// wait for each other.
fn on_ranks<T: Send>(
    world: usize,
    patience: Duration,
    f: impl Fn(Box<dyn Collective>) -> T + Sync,
) -> Vec<T> {
    crate::collective::tests::on_ranks(world, patience, |group| {
        tch::set_num_threads(1);
        f(Box::new(group))
    })
}

/// What a training is made of.
#[derive(Clone)]
struct Setting {
    name: &'static str,
    strategy: Strategy,
    loss_scale: LossScale,
    clip: Option<f64>,
    reduce_type: ReduceType,
}

fn settings() -> Vec<Setting> {
    let plain = Setting {
        name: "fp32",
        strategy: Strategy::default(),
        loss_scale: LossScale::Off,
        clip: None,
        reduce_type: ReduceType::Fp32,
    };
    let fp16 = Strategy { amp: Amp::Fp16, ..Strategy::default() };
    let learned = Strategy { qat: Some(Qat { learn_scales: true, ..Qat::default() }), ..Strategy::default() };
    let observed = Strategy { amp: Amp::Bf16, qat: Some(Qat::default()), ..Strategy::default() };
    vec![
        Setting { name: "clipped", clip: Some(0.5), ..plain.clone() },
        Setting {
            name: "fp16, scaled",
            strategy: fp16,
            loss_scale: LossScale::Dynamic { scale: 1024.0, good: 0 },
            ..plain.clone()
        },
        Setting { name: "bf16, observed", strategy: observed, ..plain.clone() },
        Setting { name: "bf16 on the way", reduce_type: ReduceType::Bf16, ..plain.clone() },
        Setting { name: "learned scales, clipped", strategy: learned, clip: Some(1.0), ..plain.clone() },
        plain,
    ]
}

fn sharing(reduce_type: ReduceType) -> Sharing {
    Sharing { microbatches: MICROBATCHES, bucket_bytes: BUCKET, reduce_type }
}

fn program(collective: Box<dyn Collective>, of: &Setting, overlap: bool) -> Program {
    DistributedOptimizer::new(Sgd::default(), of.strategy.clone(), collective)
        .sharing(sharing(of.reduce_type))
        .loss_scale(of.loss_scale)
        .clip_norm(of.clip)
        .averaging(Some(Averaging { decay: 0.5, every: 1, warmup: 0 }))
        .overlap(overlap)
        .minimize(network(), CrossEntropy::default())
        .unwrap()
}

/// The images of a microbatch of all ranks, and its labels.
fn microbatch(number: usize) -> (Tensor, Tensor) {
    let numbers = |count: i64, period: i64| {
        let of = Tensor::arange(count, (Kind::Int64, Device::Cpu)) + 17 * number as i64;
        of.remainder(period)
    };
    let images = numbers(2 * 3 * 32 * 32, 251).to_kind(Kind::Float) / 125.0 - 1.0;
    (images.view([2, 3, 32, 32]), numbers(2, 10))
}

/// What is left of a training: every number of the network and of the rule, and the last outcome's.
fn state(program: &Program) -> Vec<Vec<f32>> {
    let w = &program.weights;
    let rule = program.state();
    let averages = program.average().into_iter().flat_map(|w| [&w.flat, &w.buffers, &w.ranges]);
    let all = [&w.flat, &w.buffers, &w.ranges].into_iter().chain(&rule.buffers).chain(averages);
    all.map(|t| Vec::<f32>::try_from(t).unwrap()).collect()
}

fn step_of(program: &mut Program, step: usize) -> Result<StepOutcome, OptimError> {
    let local = program.reducer.place().local_microbatches(MICROBATCHES);
    let all: Vec<(Tensor, Tensor)> = local.map(|m| microbatch(step * MICROBATCHES + m)).collect();
    let all: Vec<Microbatch> = all.iter().map(|(images, labels)| Microbatch { images, labels }).collect();
    program.step(&all)
}

#[test]
fn the_same_bits_come_of_gradients_that_leave_early_on_any_number_of_workers() {
    for setting in settings() {
        // Alone a rank sends nothing.
        for world in [2, 4] {
            let after = |overlap| {
                on_ranks(world, LONG, |collective| {
                    let mut program = program(collective, &setting, overlap);
                    let norms: Vec<f64> =
                        (0..2).map(|step| step_of(&mut program, step).unwrap().grad_norm).collect();
                    program.finish().unwrap();
                    (state(&program), norms)
                })
            };
            let (with, without) = (after(true), after(false));
            assert!(with == without, "{} on {world}: other numbers with overlap", setting.name);
            assert!(with.iter().all(|rank| *rank == with[0]), "{} on {world}: ranks differ", setting.name);
            assert!(with[0].1.iter().all(|norm| *norm > 0.0), "{}: {:?}", setting.name, with[0].1);
        }
    }
}

#[test]
fn gradients_of_16_bits_on_the_way_are_half_the_bytes_and_the_same_sums_but_for_rounding() {
    let of = |reduce_type| {
        let setting = Setting { reduce_type, ..settings().pop().unwrap() };
        let told = on_ranks(2, LONG, |collective| {
            let calls = Calls::default();
            let counted = Counted::new(collective, Arc::default()).noting(calls.clone());
            let mut program = program(Box::new(counted), &setting, true);
            let outcome = step_of(&mut program, 0).unwrap();
            let bytes: Vec<usize> = calls.take().iter().map(|c| c.bytes).collect();
            (outcome.loss, outcome.grad_norm, state(&program), bytes)
        });
        told.into_iter().next().unwrap()
    };
    let (loss, norm, weights, bytes) = of(ReduceType::Fp32);
    let buckets =
        plan_buckets(&crate::exec::WeightsLayout::new(&network()), 0, BUCKET, ReduceType::Fp32).len();
    let (other_loss, other_norm, other_weights, sent) = of(ReduceType::Bf16);
    assert_eq!(other_loss, loss, "a loss is not rounded");
    assert!(other_weights != weights && other_norm != norm, "nothing was rounded");
    assert!((other_norm / norm - 1.0).abs() < 1.0 / 256.0, "{other_norm} against {norm}");
    assert_eq!(sent.len(), bytes.len());
    for (i, (sent, all)) in sent.iter().zip(&bytes).enumerate() {
        let part = if i + 1 < buckets { 2 } else { 1 };
        assert_eq!(part * sent, *all, "call {i} of {bytes:?}");
    }
}

#[test]
fn a_rank_that_is_alone_rounds_nothing() {
    let after = |reduce_type| {
        let setting = Setting { reduce_type, ..settings().pop().unwrap() };
        let mut program = program(Box::new(crate::collective::Local), &setting, true);
        step_of(&mut program, 0).unwrap();
        state(&program)
    };
    assert!(after(ReduceType::Bf16) == after(ReduceType::Fp32));
}

#[test]
fn buckets_leave_before_backward_is_over_and_in_their_order() {
    let plain = settings().pop().unwrap();
    let traced = |overlap| {
        on_ranks(2, LONG, |collective| {
            let calls = Calls::default();
            let counted = Counted::new(collective, Arc::default()).noting(calls.clone());
            let mut program = program(Box::new(counted), &plain, overlap);
            step_of(&mut program, 0).unwrap();
            calls.take();
            let outcome = step_of(&mut program, 1).unwrap();
            let reduce = outcome.spans.iter().find(|s| s.stage == Stage::Reduce).unwrap().begun;
            let calls = calls.take();
            let early = calls.iter().filter(|c| c.begun < reduce).count();
            (calls.iter().map(|c| c.bytes).collect::<Vec<_>>(), early)
        })
    };
    let (with, without) = (traced(true), traced(false));
    assert!(with[0].0.len() > 3, "{:?}", with[0].0);
    assert!(with.iter().chain(&without).all(|(bytes, _)| *bytes == with[0].0), "one order: {with:?}");
    for ((bytes, early), (_, late)) in with.iter().zip(&without) {
        assert_eq!(*late, 0);
        // On a busy machine a thread may get to them later; the last is never early.
        assert!((1..bytes.len()).contains(early), "{early} of {bytes:?}");
    }
}

/// How many collectives a rank of two enters in its first step, and in the second.
fn calls(of: &Setting) -> [u64; 2] {
    let counts = on_ranks(2, LONG, |collective| {
        let at = Arc::new(Whereabouts::default());
        let mut program = program(Box::new(Counted::new(collective, Arc::clone(&at))), of, true);
        [0, 1].map(|step| {
            let before = at.entered();
            step_of(&mut program, step).unwrap();
            at.entered() - before
        })
    });
    assert_eq!(counts[0], counts[1]);
    counts[0]
}

#[test]
fn a_step_whose_bucket_fails_changes_nothing_and_says_which_collective_it_was() {
    for setting in settings() {
        let [first, second] = calls(&setting);
        assert!(second > 3, "{}: {second} collectives", setting.name);
        // Of the second step the first rank's first bucket, which leaves in the middle of backward, and its last collective: what
        // the other rank gets instead of it ends with this rank.
        let sound = on_ranks(2, LONG, |collective| {
            let mut program = program(collective, &setting, true);
            (0..2).for_each(|step| drop(step_of(&mut program, step).unwrap()));
            (state(&program), program.place())
        });
        for at in [first, first + second - 1] {
            let next = Arc::new(MemoryStore::default());
            let told = on_ranks(2, LONG, |collective| {
                let rank = collective.rank();
                let collective: Box<dyn Collective> = match rank {
                    0 => Box::new(Faulty::new(collective, at, Fault::Fail)),
                    _ => collective,
                };
                let mut program = program(collective, &setting, true);
                step_of(&mut program, 0).unwrap();
                let before = (state(&program), program.place());
                let e = step_of(&mut program, 1).unwrap_err();
                assert!((state(&program), program.place()) == before, "{}, rank {rank}", setting.name);
                // Nor of the next generation's step, before which the old group goes, as in a job.
                program.abandon();
                program.regroup(Box::new(Local));
                let group = Gloo::connect(next.clone(), rank, 2, "127.0.0.1", LONG, &Abort::new()).unwrap();
                program.regroup(Box::new(group));
                step_of(&mut program, 1).unwrap();
                assert!((state(&program), program.place()) == sound[rank], "{}, rank {rank}", setting.name);
                e.to_string()
            });
            let own = format!("faulty all_reduce on rank 0 (collective {}, ", at + 1);
            assert!(told[0].contains(&own), "{}: {own}: {told:?}", setting.name);
            let others = format!("gloo all_reduce on rank 1 (collective {}, ", at + 1);
            assert!(told[1].contains(&others) && told[1].contains(" bytes)"), "{}: {told:?}", setting.name);
        }
    }
}

#[test]
fn a_backward_that_ends_in_the_middle_leaves_the_group_and_the_others_hear_of_it() {
    let layout = crate::exec::WeightsLayout::new(&network());
    let told = on_ranks(2, Duration::from_secs(20), |collective| {
        let rank = collective.rank();
        let collective: Arc<dyn Collective> = collective.into();
        let mut buffer = GradientBuffer::new(&layout, 0, &sharing(ReduceType::Fp32), Device::Cpu).unwrap();
        let options = (Kind::Float, Device::Cpu);
        let leaves: Vec<Tensor> = buffer
            .views()
            .iter()
            .map(|view| Tensor::ones(view.size(), options).set_requires_grad(true))
            .collect();
        let departures = Departures::begin(&leaves, &mut buffer, &collective).unwrap();
        // The first rank's backward ends behind the first two parameters, which are more than a bucket.
        let reached = if rank == 0 { &leaves[..2] } else { &leaves[..] };
        let loss = reached.iter().map(|leaf| leaf.sum(Kind::Float)).reduce(|a, b| a + b).unwrap();
        let _ = Tensor::f_run_backward(&[loss], reached, false, false).unwrap();
        let names = layout.trainable.iter().map(|slot| slot.name.clone());
        let ended = departures.end(names).and_then(|under_way| {
            assert_eq!(under_way.len(), plan_buckets(&layout, 0, BUCKET, ReduceType::Fp32).len() - 1);
            under_way.into_iter().try_for_each(|call| call.wait().map(drop))?;
            Ok(())
        });
        let t = Tensor::ones([2], options);
        (ended.unwrap_err(), collective.all_reduce(&t, crate::collective::ReduceOp::Sum).unwrap_err())
    });
    let (own, after) = &told[0];
    let third = &layout.trainable[2].name;
    assert!(own.to_string().contains(third) && own.to_string().contains("has no gradient"), "{own}");
    assert!(after.to_string().contains("was left before it was done"), "{after}");
    let OptimError::Collective(e @ CollectiveError::Failed { number: 1.., .. }) = &told[1].0 else {
        panic!("not all buckets were added up: {told:?}");
    };
    assert!(matches!(e.cause(), Cause::Peers | Cause::Waited), "{e}");
}
