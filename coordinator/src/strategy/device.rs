//! Device and backend.

use super::{DeviceChoice, JobSettings, StrategyError, TestBackend};
use crate::ranks::Place;
use octrain_proto::v1::{Backend, Device, WorkerFacts};

/// CPU or CUDA: all workers alike. `workers` in the order of ranks.
pub(super) fn choose(s: &JobSettings, workers: &[WorkerFacts]) -> Result<(Device, String), StrategyError> {
    let able: Vec<(Place, u32, usize)> = workers
        .iter()
        .enumerate()
        .map(|(i, w)| {
            let local_rank = workers[..i].iter().filter(|o| o.host == w.host).count() as u32;
            let devices = w.capabilities.as_ref().map_or(0, |c| c.cuda_devices.len());
            (crate::place_of(w), local_rank, devices)
        })
        .collect();
    let with = able.iter().find(|(_, local, devices)| *devices > *local as usize);
    let without = able.iter().find(|(_, local, devices)| *devices <= *local as usize);
    match (s.device, with, without) {
        (DeviceChoice::Cpu, ..) => Ok((Device::Cpu, "--device cpu".into())),
        (DeviceChoice::Cuda, _, None) => Ok((Device::Cuda, "--device cuda: one GPU per worker".into())),
        (DeviceChoice::Cuda, _, Some((place, local, devices))) => {
            Err(StrategyError::Cuda { place: place.clone(), local_rank: *local, devices: *devices })
        }
        (DeviceChoice::Auto, _, None) => Ok((Device::Cuda, "auto: every worker has a GPU of its own".into())),
        (DeviceChoice::Auto, None, Some(_)) => Ok((Device::Cpu, "auto: no worker has a usable GPU".into())),
        (DeviceChoice::Auto, Some((with, ..)), Some((without, local, devices))) => {
            Err(StrategyError::MixedDevices {
                with: with.clone(),
                without: without.clone(),
                local_rank: *local,
                devices: *devices,
            })
        }
    }
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
pub(crate) fn name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
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
