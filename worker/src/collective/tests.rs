//! What every collective does, on ranks that are threads; and what happens when one is gone.

use super::*;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use tch::{Device, Kind};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Runs `f` on every rank of a Gloo group; panics of ranks are the test's.
pub(crate) fn on_ranks<T: Send>(world: usize, timeout: Duration, f: impl Fn(Gloo) -> T + Sync) -> Vec<T> {
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
    // Several under way at once, of which each has its own numbers.
    let all = [3, 100_000, 1, 50_000]
        .map(|len| Tensor::full([len], rank as f64 + len as f64, (Kind::Float, Device::Cpu)));
    let start = |t: &Tensor| c.start_all_reduce(t, ReduceOp::Sum, Box::new(|| ())).unwrap();
    let under_way: Vec<_> = all.iter().map(start).collect();
    let wires: Vec<_> = under_way.into_iter().map(|call| call.wait().unwrap()).collect();
    assert!(wires.windows(2).all(|w| w[0].begun <= w[0].ended && w[0].ended <= w[1].begun));
    for t in &all {
        let sum = (world * (world - 1) / 2) as i64 + world as i64 * t.numel() as i64;
        assert!(t.eq(sum as f64).all().int64_value(&[]) == 1, "{sum}");
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
fn a_pending_call_ends_when_it_is_aborted_and_so_do_later_ones_and_the_group() {
    // Longer than the test may take: nothing here ends because of it.
    let timeout = Duration::from_secs(600);
    let gone = Barrier::new(2);
    on_abortable_ranks(2, timeout, |c, abort| {
        let t = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        if c.rank() == 1 {
            // Never joins the reduction of rank 0, and holds its connection until that one has given up.
            gone.wait();
            return;
        }
        let begun = Instant::now();
        let waiter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            abort.trip();
        });
        let e = c.all_reduce(&t, ReduceOp::Sum).unwrap_err();
        assert!(matches!(e, CollectiveError::Aborted { .. }), "{e}");
        assert!(matches!(c.barrier().unwrap_err(), CollectiveError::Aborted { .. }));
        waiter.join().unwrap();
        drop(c);
        assert!(begun.elapsed() < TIMEOUT, "it took {:?}", begun.elapsed());
        gone.wait();
    });
}

/// A rendezvous of which one rank only ever learns that it has published its address.
struct Deaf(Arc<MemoryStore>);

impl RendezvousStore for Deaf {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.0.set(key, value)
    }
    fn get(&self, _: &str, timeout: Duration, abort: &Abort) -> Result<Vec<u8>, StoreError> {
        self.0.get("never", timeout, abort)
    }
    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        self.0.add(key, amount)
    }
    fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
        self.0.check(keys)
    }
    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.0.delete(key)
    }
}

#[test]
fn connecting_ends_when_it_is_aborted_whether_the_other_rank_came_or_not() {
    let timeout = Duration::from_secs(600);
    for published in [false, true] {
        let (store, abort) = (Arc::new(MemoryStore::default()), Abort::new());
        let other = published.then(|| {
            let (deaf, abort) = (Arc::new(Deaf(store.clone())), abort.clone());
            std::thread::spawn(move || Gloo::connect(deaf, 1, 2, "127.0.0.1", timeout, &abort).err())
        });
        let waiter = std::thread::spawn({
            let (store, abort) = (store.clone(), abort.clone());
            move || {
                // Both addresses are known: from there on rank 0 waits inside of Gloo.
                let ranks = if published { 2 } else { 1 };
                while store.len() < ranks {
                    std::thread::sleep(Duration::from_millis(10));
                }
                std::thread::sleep(Duration::from_millis(300));
                abort.trip();
                Instant::now()
            }
        });
        let made = Gloo::connect(store, 0, 2, "127.0.0.1", timeout, &abort);
        // The side that dials counts itself connected once the other's system has taken the call.
        let e = made.and_then(|c| c.barrier()).unwrap_err();
        let took = waiter.join().unwrap().elapsed();
        assert!(matches!(e, CollectiveError::Aborted { .. }), "{e}");
        assert!(took < TIMEOUT, "it took {took:?}");
        let told = other.map(|o| o.join().unwrap());
        assert!(told.is_none_or(|e| e == Some(CollectiveError::Aborted { call: "connect", rank: 1 })));
    }
}

#[test]
fn a_call_beyond_its_deadline_does_not_hold_up_the_end_of_the_group() {
    let gone = Barrier::new(2);
    on_ranks(2, Duration::from_secs(2), |c| {
        if c.rank() == 0 {
            let t = Tensor::zeros([8], (Kind::Float, Device::Cpu));
            let e = c.all_reduce(&t, ReduceOp::Sum).unwrap_err();
            assert!(matches!(e, CollectiveError::Failed { .. }), "{e}");
            drop(c);
        }
        gone.wait();
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
fn calls_under_way_end_when_they_are_aborted_and_the_group_can_be_dropped() {
    let timeout = Duration::from_secs(600);
    let gone = Barrier::new(2);
    on_abortable_ranks(2, timeout, |c, abort| {
        let t = Tensor::zeros([8], (Kind::Float, Device::Cpu));
        if c.rank() == 1 {
            gone.wait();
            return;
        }
        let begun = Instant::now();
        let under_way = [(); 2].map(|()| c.start_all_reduce(&t, ReduceOp::Sum, Box::new(|| ())).unwrap());
        abort.trip();
        for call in under_way {
            let e = call.wait().unwrap_err();
            assert!(matches!(e, CollectiveError::Aborted { .. }), "{e}");
        }
        // One that nobody waits for holds up nobody.
        drop(c.start_all_reduce(&t, ReduceOp::Sum, Box::new(|| ())));
        drop(c);
        assert!(begun.elapsed() < TIMEOUT, "it took {:?}", begun.elapsed());
        gone.wait();
    });
}

#[test]
fn a_rank_that_leaves_out_a_call_is_an_error_of_those_that_wait_for_it_which_names_call_number_and_bytes() {
    let gone = Barrier::new(3);
    on_ranks(3, Duration::from_secs(3), |c| {
        let t = Tensor::ones([10], (Kind::Float, Device::Cpu));
        let calls = if c.rank() == 2 { 2 } else { 3 };
        let failed = (0..calls).find_map(|_| c.all_reduce(&t, ReduceOp::Sum).err());
        gone.wait();
        match failed {
            None => assert_eq!(c.rank(), 2),
            Some(e) => {
                let said = format!("gloo all_reduce on rank {} (collective 3, 40 bytes)", c.rank());
                assert!(e.to_string().contains(&said), "{e}");
            }
        }
    });
}

#[test]
fn a_declared_failure_stays_and_a_declared_corruption_happens_once() {
    let t = Tensor::ones([2], (Kind::Float, Device::Cpu));
    let c = Faulty::new(Box::new(Local), 1, Fault::Fail);
    c.all_reduce(&t, ReduceOp::Sum).unwrap();
    assert!(c.barrier().unwrap_err().to_string().contains("a declared fault"));
    assert!(c.barrier().unwrap_err().to_string().contains("an earlier call of this group failed"));
    let c = Faulty::new(Box::new(Local), 0, Fault::Corrupt);
    c.all_reduce(&t, ReduceOp::Sum).unwrap();
    c.all_reduce(&t, ReduceOp::Sum).unwrap();
    assert_eq!(Vec::<f32>::try_from(&t).unwrap(), [-2.0, 1.0]);
}
