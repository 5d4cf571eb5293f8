//! What every collective does, on ranks that are threads; and what happens when one is gone.

use super::*;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Device, Kind};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Runs `f` on every rank of a Gloo group; panics of ranks are the test's.
fn on_ranks<T: Send>(world: usize, timeout: Duration, f: impl Fn(Gloo) -> T + Sync) -> Vec<T> {
    on_abortable_ranks(world, timeout, |c, _| f(c))
}

/// The same, with each rank's abort token.
fn on_abortable_ranks<T: Send>(
    world: usize,
    timeout: Duration,
    f: impl Fn(Gloo, Abort) -> T + Sync,
) -> Vec<T> {
    let store = Arc::new(MemoryStore::default());
    std::thread::scope(|s| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let (store, f) = (store.clone(), &f);
                s.spawn(move || {
                    let abort = Abort::new();
                    f(Gloo::connect(store, rank, world, "127.0.0.1", timeout, &abort).unwrap(), abort)
                })
            })
            .collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

fn conforms(c: &dyn Collective) {
    let (rank, world) = (c.rank(), c.world_size());
    for kind in [Kind::Float, Kind::Double, Kind::Int64, Kind::BFloat16, Kind::Half] {
        let make = || Tensor::arange(1000, (kind, Device::Cpu)).remainder(7.0) + rank as i64;
        let t = make();
        c.all_reduce(&t, ReduceOp::Sum).unwrap();
        let ranks = (world * (world - 1) / 2) as i64;
        let base = Tensor::arange(1000, (kind, Device::Cpu)).remainder(7.0);
        assert!(t.equal(&(&base * world as i64 + ranks).to_kind(kind)), "{kind:?} sum");
        let t = make();
        c.all_reduce(&t, ReduceOp::Max).unwrap();
        assert!(t.equal(&(&base + (world as i64 - 1)).to_kind(kind)), "{kind:?} maximum");
        let t = make();
        c.broadcast(&t, world - 1).unwrap();
        assert!(t.equal(&(&base + (world as i64 - 1)).to_kind(kind)), "{kind:?} broadcast");
        let all = c.all_gather(&make()).unwrap();
        assert_eq!(all.len(), world);
        for (r, t) in all.iter().enumerate() {
            assert!(t.equal(&(&base + r as i64).to_kind(kind)), "{kind:?} gather");
        }
    }
    c.barrier().unwrap();
}

#[test]
fn gloo_conforms() {
    for world in [2, 3] {
        on_ranks(world, TIMEOUT, |c| conforms(&c));
    }
}

#[test]
fn local_conforms() {
    conforms(&Local);
}

#[test]
fn sums_are_the_same_bits_on_every_rank() {
    let got = on_ranks(3, TIMEOUT, |c| {
        tch::manual_seed(0);
        let t = Tensor::rand([10_007], (Kind::Float, Device::Cpu)) * (1.0 + c.rank() as f64 / 3.0);
        c.all_reduce(&t, ReduceOp::Sum).unwrap();
        Vec::<f32>::try_from(&t).unwrap()
    });
    assert!(got.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn a_tensor_that_is_not_contiguous_is_refused() {
    on_ranks(2, TIMEOUT, |c| {
        let t = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).transpose(0, 1);
        let e = c.all_reduce(&t, ReduceOp::Sum).unwrap_err();
        assert!(matches!(e, CollectiveError::Tensor { .. }), "{e}");
    });
}

#[test]
fn a_pending_call_ends_when_it_is_aborted_and_so_do_later_ones() {
    on_abortable_ranks(2, TIMEOUT, |c, abort| {
        let t = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        if c.rank() == 1 {
            // Never joins the reduction of rank 0; stays until that one has given up.
            std::thread::sleep(Duration::from_secs(2));
            return;
        }
        let waiter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            abort.trip();
        });
        let begun = Instant::now();
        let e = c.all_reduce(&t, ReduceOp::Sum).unwrap_err();
        assert!(matches!(e, CollectiveError::Aborted { .. }), "{e}");
        assert!(begun.elapsed() < TIMEOUT);
        assert!(matches!(c.barrier().unwrap_err(), CollectiveError::Aborted { .. }));
        waiter.join().unwrap();
    });
}

#[test]
fn a_rank_that_is_gone_or_never_came_is_an_error_within_the_deadline() {
    let timeout = Duration::from_secs(3);
    on_ranks(2, timeout, |c| {
        if c.rank() == 0 {
            let t = Tensor::zeros([8], (Kind::Float, Device::Cpu));
            let e = c.all_reduce(&t, ReduceOp::Sum).unwrap_err();
            assert!(matches!(e, CollectiveError::Failed { call: "all_reduce", rank: 0, .. }), "{e}");
        }
    });
    let e = Gloo::connect(Arc::new(MemoryStore::default()), 0, 2, "127.0.0.1", timeout, &Abort::new())
        .err()
        .unwrap();
    assert!(e.to_string().contains("did not appear"), "{e}");
}

#[test]
fn declared_faults_fire_once() {
    let t = Tensor::ones([2], (Kind::Float, Device::Cpu));
    let c = Faulty::new(Box::new(Local), 1, Fault::Fail);
    c.all_reduce(&t, ReduceOp::Sum).unwrap();
    assert!(c.barrier().is_err());
    c.barrier().unwrap();
    let c = Faulty::new(Box::new(Local), 0, Fault::Corrupt);
    c.all_reduce(&t, ReduceOp::Sum).unwrap();
    c.all_reduce(&t, ReduceOp::Sum).unwrap();
    assert_eq!(Vec::<f32>::try_from(&t).unwrap(), [-2.0, 1.0]);
}
