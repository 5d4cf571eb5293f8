//! The collective alone, timed: what `octrain bench allreduce` has its workers do.

use super::TrainError;
use super::group::{collective, device};
use super::patience::{PATIENCE, patience};
use crate::collective::{Collective, ReduceOp};
use crate::launcher::signals;
use crate::launcher::watchdog::{Phase, doing};
use crate::metrics::{ReportFile, median};
use crate::native::devices;
use crate::session::Session;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Sizes of buffers, and how often each is reduced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllReduce {
    /// Bytes of FP32 numbers: multiples of 4, from 4.
    pub bytes: Vec<usize>,
    /// Reductions timed of each.
    pub steps: u64,
    /// Reductions before them.
    pub warmup: u64,
}

/// The share of `bytes` that a rank has to send at least so that `world` ranks have a sum: what a ring sends. Divided by the
/// time of an all-reduce it is the bandwidth of the links, whatever the number of ranks.
pub fn sent_bytes(bytes: usize, world: usize) -> f64 {
    2.0 * bytes as f64 * (world.saturating_sub(1)) as f64 / world.max(1) as f64
}

/// Seconds of one sum over all ranks of a buffer of ones, on this rank, from a moment on when all have come; an error where
/// one of them is asked to stop.
fn once(collective: &dyn Collective, buffer: &Tensor) -> Result<f64, TrainError> {
    let _ = buffer.shallow_clone().f_fill_(1.0)?;
    let asked = f64::from(u8::from(signals::requested()));
    if largest(collective, asked, buffer.device())? > 0.0 {
        return Err(TrainError::Stopped("a benchmark"));
    }
    let begun = Instant::now();
    collective.all_reduce(buffer, ReduceOp::Sum)?;
    // On a GPU it is done once a number of it can be read.
    let last = buffer.f_double_value(&[buffer.numel() as i64 - 1])?;
    let seconds = begun.elapsed().as_secs_f64();
    let world = collective.world_size() as f64;
    if last != world {
        let what = format!("an all-reduce of {} ones gave {last} on {world} ranks", buffer.numel());
        return Err(TrainError::WrongSum(what));
    }
    Ok(seconds)
}

/// The largest of a number over all ranks.
fn largest(collective: &dyn Collective, mine: f64, device: Device) -> Result<f64, TrainError> {
    let all = Tensor::f_from_slice(&[mine])?.f_to_device(device)?;
    collective.all_reduce(&all, ReduceOp::Max)?;
    Ok(all.f_double_value(&[0])?)
}

/// Times all-reduces of each size over the ranks of `session`; rank 0 writes a line a size into `report`: bytes, and the
/// slowest rank's median in milliseconds.
pub fn time_all_reduce(
    wanted: &AllReduce,
    session: &Session,
    address: &str,
    report: Option<&Path>,
) -> Result<(), TrainError> {
    let plan = session.plan();
    let patience = patience(std::env::var(PATIENCE).ok().as_deref())?;
    let generation = session.generation();
    let device = device(&generation);
    devices::make_current(device).map_err(|e| TrainError::Config(e.to_string()))?;
    tch::set_num_threads(plan.threads.max(1) as i32);
    let collective = collective(session, address, patience, None)?;
    let _doing = doing(Phase::Training);
    let mut report =
        report.filter(|_| generation.rank() == 0).map(|path| ReportFile::open(path, false)).transpose()?;
    for &bytes in &wanted.bytes {
        let buffer = Tensor::f_zeros([(bytes / 4).max(1) as i64], (Kind::Float, device))?;
        for _ in 0..wanted.warmup {
            once(&*collective, &buffer)?;
        }
        let times: Vec<f64> =
            (0..wanted.steps).map(|_| once(&*collective, &buffer)).collect::<Result<_, _>>()?;
        let seconds = largest(&*collective, median(&times), device)?;
        if let Some(file) = &mut report {
            file.write(&json!({"kind": "all-reduce", "bytes": bytes, "ms": 1e3 * seconds}))?;
        }
    }
    Ok(collective.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Local;

    #[test]
    fn a_ring_sends_almost_twice_the_buffer() {
        assert_eq!([1, 2, 4].map(|world| sent_bytes(1000, world)), [0.0, 1000.0, 1500.0]);
    }

    #[test]
    fn a_sum_is_timed_and_looked_at() {
        let buffer = Tensor::f_zeros([8], (Kind::Float, Device::Cpu)).unwrap();
        assert!(once(&Local, &buffer).unwrap() >= 0.0);
        assert_eq!(largest(&Local, 3.0, Device::Cpu).unwrap(), 3.0);
    }
}
