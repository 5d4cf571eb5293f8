//! Device and backend.

use super::{DeviceChoice, JobSettings, StrategyError};
use crate::ranks::{self, Place};
use octrain_proto::v1::{Backend, Device, WorkerFacts};

/// CPU or CUDA: all workers alike.
pub(super) fn choose(s: &JobSettings, workers: &[WorkerFacts]) -> Result<(Device, String), StrategyError> {
    let places: Vec<Place> = workers.iter().map(crate::place_of).collect();
    // In the order of ranks, so that the worker an error names does not depend on arrival.
    let able: Vec<(Place, u32, usize)> = ranks::assign(&places)
        .into_iter()
        .map(|p| {
            let worker = workers.iter().find(|w| w.host == p.host && w.local_index == p.local_index);
            let devices = worker.and_then(|w| w.capabilities.as_ref()).map_or(0, |c| c.cuda_devices.len());
            (Place { host: p.host, local_index: p.local_index }, p.local_rank, devices)
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
pub(super) fn backend(device: Device, world: u64) -> (Backend, String) {
    match (device, world) {
        (_, 1) => (Backend::Local, "one worker: nothing to communicate".into()),
        (Device::Cpu, n) => (Backend::Gloo, format!("{n} workers on CPUs")),
        (Device::Cuda, n) => (Backend::Nccl, format!("{n} workers on CUDA devices")),
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
