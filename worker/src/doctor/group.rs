//! NCCL on the first GPU: a group of one, and what happens to one that a rank is missing in.

use super::{Check, check};
use crate::collective::{Abort, Collective, CollectiveError, MemoryStore, Nccl, Place, ReduceOp, load_nccl};
use std::time::{Duration, Instant};
use tch::{Device, Kind, TchError, Tensor};

/// Longest wait of a call that should succeed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait of a call that nobody answers.
const SHORT: Duration = Duration::from_secs(3);

pub(super) fn said(e: CollectiveError) -> String {
    e.to_string()
}

fn connect(
    (rank, world): (usize, usize),
    store: &MemoryStore,
    timeout: Duration,
    abort: &Abort,
) -> Result<Nccl, CollectiveError> {
    Nccl::connect(load_nccl()?, store, (rank, world), Place::Cuda(0), timeout, abort)
}

/// Every call, on every type that travels, of a group whose tensors lie at `place`; then the orderly end.
pub(super) fn calls(group: Nccl, place: Place) -> Result<String, String> {
    let (rank, world) = (group.rank() as i64, group.world_size() as i64);
    let device = match place {
        Place::Cuda(ordinal) => Device::Cuda(ordinal),
        Place::StandIn => Device::Cpu,
    };
    let tch = |e: TchError| e.to_string();
    for kind in [Kind::Float, Kind::BFloat16, Kind::Half, Kind::Int64] {
        let of = |n: i64| Tensor::f_full([1000], n, (kind, device)).map_err(tch);
        let expect = |what: &str, got: &Tensor, n: i64| match got.f_equal(&of(n)?).map_err(tch)? {
            true => Ok(()),
            false => Err(format!("{what} of {kind:?} is wrong")),
        };
        let t = of(rank + 1)?;
        group.all_reduce(&t, ReduceOp::Sum).map_err(said)?;
        expect("the sum", &t, world * (world + 1) / 2)?;
        let t = of(rank + 1)?;
        group.all_reduce(&t, ReduceOp::Max).map_err(said)?;
        expect("the maximum", &t, world)?;
        let t = of(rank + 1)?;
        group.broadcast(&t, 0).map_err(said)?;
        expect("the broadcast", &t, 1)?;
        for (r, t) in group.all_gather(&of(rank + 1)?).map_err(said)?.iter().enumerate() {
            expect("a gathered part", t, r as i64 + 1)?;
        }
    }
    under_way(&group, device)?;
    group.barrier().map_err(said)?;
    group.finish().map_err(said)?;
    Ok("sum, maximum, broadcast, gather, four sums under way at once, barrier, finalize".into())
}

/// Several sums that are under way together, each started while the device has yet to compute what it adds up.
fn under_way(group: &Nccl, device: Device) -> Result<(), String> {
    let tch = |e: TchError| e.to_string();
    let (rank, world) = (group.rank() as i64, group.world_size() as i64);
    let side: i64 = if device.is_cuda() { 4096 } else { 32 };
    let ones = Tensor::f_ones([side, side], (Kind::Float, device)).map_err(tch)?;
    let mut calls = Vec::new();
    for number in 1..=4 {
        // Means of ones, which take their time and are exact.
        let mut t = ones.shallow_clone();
        for _ in 0..4 {
            t = t.f_mm(&ones).and_then(|t| t.f_div_scalar(side)).map_err(tch)?;
        }
        // Every second in BF16, as gradients may go.
        let kind = if number % 2 == 0 { Kind::BFloat16 } else { Kind::Float };
        let t = t.f_mul_scalar(number * (rank + 1)).and_then(|t| t.f_to_kind(kind)).map_err(tch)?;
        let call = group.start_all_reduce(&t, ReduceOp::Sum, Box::new(|| ())).map_err(said)?;
        calls.push((number * world * (world + 1) / 2, t, call));
    }
    for (sum, t, call) in calls {
        call.wait().map_err(said)?;
        if t.f_eq(sum).and_then(|t| t.f_all()).and_then(|t| t.f_int64_value(&[])).map_err(tch)? != 1 {
            return Err(format!("a sum that was to be {sum} everywhere, among four under way, is not"));
        }
    }
    Ok(())
}

/// How a connect ends to which the second rank never comes.
fn alone(timeout: Duration, abort: &Abort) -> Result<(CollectiveError, Duration), String> {
    let begun = Instant::now();
    match connect((0, 2), &MemoryStore::default(), timeout, abort) {
        Ok(_) => Err("a group of two was made of one rank".into()),
        Err(e) => Ok((e, begun.elapsed())),
    }
}

fn deadline() -> Result<String, String> {
    let (e, took) = alone(SHORT, &Abort::new())?;
    match e {
        CollectiveError::Connect { .. } if took < SHORT * 5 => {
            Ok(format!("after {:.1} s", took.as_secs_f64()))
        }
        e => Err(format!("after {:.1} s: {e}", took.as_secs_f64())),
    }
}

fn abort() -> Result<String, String> {
    let abort = Abort::new();
    let tripping = abort.clone();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        tripping.trip();
    });
    let ended = alone(PATIENCE, &abort);
    let _ = other.join();
    let (e, took) = ended?;
    match e {
        CollectiveError::Aborted { .. } if took < Duration::from_secs(10) => {
            Ok(format!("{:.1} s after it was asked", (took.as_secs_f64() - 1.0).max(0.0)))
        }
        e => Err(format!("after {:.1} s: {e}", took.as_secs_f64())),
    }
}

/// A group of one, and what happens to one that a rank is missing in.
pub(super) fn one_rank() -> Vec<Check> {
    let group = connect((0, 1), &MemoryStore::default(), PATIENCE, &Abort::new());
    vec![
        check("NCCL on one rank", group.map_err(said).and_then(|group| calls(group, Place::Cuda(0)))),
        check("NCCL ends at the deadline", deadline()),
        check("NCCL ends on abort", abort()),
    ]
}
