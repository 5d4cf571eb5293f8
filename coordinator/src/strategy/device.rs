//! Device and backend.

use super::{JobSettings, StrategyError};
use crate::ranks::Place;
use octrain_core::strategy::{Device, DeviceChoice, TestBackend};
use octrain_proto::v1::{Backend, CudaDevice, WorkerFacts};

/// A worker's GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The number that the worker's own process knows it by.
    pub ordinal: u32,
    /// Which one it is, however processes number it.
    pub uuid: String,
}

/// A worker, its rank within its host, and what it sees.
struct Seen<'a> {
    place: Place,
    local_rank: u32,
    devices: &'a [CudaDevice],
}

impl Seen<'_> {
    /// The GPU that is to be this worker's: the only one it sees, else that of its rank within the host; with `shares`, those of
    /// a host in turn.
    fn own(&self, shares: bool) -> Option<Gpu> {
        let ordinal = match self.devices.len() as u32 {
            1 => 0,
            count if shares => self.local_rank.checked_rem(count)?,
            _ => self.local_rank,
        };
        let device = self.devices.get(ordinal as usize)?;
        Some(Gpu { ordinal, uuid: device.uuid.clone() })
    }
}

/// CPU or CUDA: all workers alike; then a GPU for each. `workers` in the order of ranks, as is what is returned.
///
/// Where a test asks for NCCL, workers may share a GPU, as NCCL from 2.30 on lets them: so two ranks can be tried on one.
pub(super) fn choose(
    s: &JobSettings,
    workers: &[WorkerFacts],
) -> Result<(Device, String, Vec<Gpu>), StrategyError> {
    if s.device == DeviceChoice::Cpu {
        return Ok((Device::Cpu, "--device cpu".into(), Vec::new()));
    }
    let seen: Vec<Seen> = workers
        .iter()
        .enumerate()
        .map(|(i, w)| Seen {
            place: crate::place_of(w),
            local_rank: workers[..i].iter().filter(|o| o.host == w.host).count() as u32,
            devices: w.capabilities.as_ref().map_or(&[], |c| &c.cuda_devices),
        })
        .collect();
    let shares = s.test_backend == TestBackend::Nccl;
    let own: Vec<Option<Gpu>> = seen.iter().map(|w| w.own(shares)).collect();
    let without = seen.iter().zip(&own).find_map(|(w, gpu)| gpu.is_none().then_some(w));
    let with = seen.iter().zip(&own).find_map(|(w, gpu)| gpu.is_some().then_some(w));
    let reason = match (s.device, with, without) {
        (DeviceChoice::Cuda, _, Some(w)) => {
            return Err(StrategyError::Cuda {
                place: w.place.clone(),
                local_rank: w.local_rank,
                devices: w.devices.len(),
            });
        }
        (_, None, _) => return Ok((Device::Cpu, "auto: no worker has a usable GPU".into(), Vec::new())),
        (_, Some(with), Some(without)) => {
            return Err(StrategyError::MixedDevices {
                with: with.place.clone(),
                without: without.place.clone(),
                local_rank: without.local_rank,
                devices: without.devices.len(),
            });
        }
        _ if shares => "--test-backend nccl: the GPUs of a host in turn",
        (DeviceChoice::Cuda, ..) => "--device cuda: one GPU per worker",
        (..) => "auto: every worker has a GPU of its own",
    };
    let own: Vec<Gpu> = own.into_iter().flatten().collect();
    for (i, gpu) in own.iter().enumerate() {
        let same = |j: &usize| seen[*j].place.host == seen[i].place.host && own[*j].uuid == gpu.uuid;
        if let Some(first) = (0..i).find(same).filter(|_| !shares) {
            return Err(StrategyError::SharedDevice {
                first: seen[first].place.clone(),
                second: seen[i].place.clone(),
                uuid: gpu.uuid.clone(),
            });
        }
    }
    Ok((Device::Cuda, reason.into(), own))
}

/// How ranks communicate.
pub(super) fn backend(
    asked: TestBackend,
    device: Device,
    world: u64,
) -> Result<(Backend, String), StrategyError> {
    let on = |backend: Backend| Ok((backend, format!("--test-backend {}", backend_name(backend))));
    match (asked, device, world) {
        (TestBackend::Gloo, Device::Cuda, _) => Err(StrategyError::GlooOnGpus),
        (TestBackend::Gloo, ..) => on(Backend::Gloo),
        (TestBackend::Nccl, ..) => on(Backend::Nccl),
        (TestBackend::Auto, _, 1) => Ok((Backend::Local, "one worker: nothing to communicate".into())),
        (TestBackend::Auto, Device::Cpu, n) => Ok((Backend::Gloo, format!("{n} workers on CPUs"))),
        (TestBackend::Auto, Device::Cuda, n) => Ok((Backend::Nccl, format!("{n} workers on CUDA devices"))),
    }
}

/// Name in texts.
pub(crate) fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Local => "local",
        Backend::Gloo => "gloo",
        Backend::Nccl => "nccl",
    }
}
