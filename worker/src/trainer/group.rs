//! The ranks of a generation, connected.

use super::TrainError;
use crate::collective::{
    Calls, Collective, CollectiveError, Counted, Gloo, Local, Nccl, Operation, Place, load_nccl,
};
use crate::data::Sharding;
use crate::launcher::watchdog::{Phase, doing};
use crate::optim::Sharing;
use crate::session::{Backend, BuildPlan, Generation, Session};
use std::sync::Arc;
use std::time::Duration;
use tch::Device;

/// This rank's device, as its placement names it.
pub(super) fn device(generation: &Generation) -> Device {
    match generation.mine().and_then(|p| p.cuda_device) {
        None => Device::Cpu,
        Some(ordinal) => Device::Cuda(ordinal as usize),
    }
}

/// Which part of shared work is this rank's: the run's microbatches, dealt to whoever is there.
pub(super) fn sharding(plan: &BuildPlan, generation: &Generation) -> Sharding {
    Sharding {
        rank: generation.rank() as usize,
        world: generation.world_size() as usize,
        microbatches: plan.microbatches as usize,
        batch: plan.microbatch_size as usize,
    }
}

/// How ranks share out a step and add up, whoever is there.
pub(super) fn sharing(plan: &BuildPlan) -> Sharing {
    let (microbatches, bucket_bytes) = (plan.microbatches as usize, plan.bucket_bytes as usize);
    Sharing { microbatches, bucket_bytes, reduce_type: plan.reduce_type() }
}

/// Connects the ranks of the current generation, as the plan says. `address` is this host's, as others reach it; `patience`
/// bounds every call, and all end with the generation. Calls are noted in `noted`; a rank that is alone has nobody to call.
pub(super) fn collective(
    session: &Session,
    address: &str,
    patience: Duration,
    noted: Option<Calls>,
) -> Result<Box<dyn Collective>, CollectiveError> {
    let _doing = doing(Phase::Connecting);
    let (plan, generation) = (session.plan(), session.generation());
    let (rank, world) = (generation.rank() as usize, generation.world_size() as usize);
    let abort = generation.abort();
    let waiting = session.meets(&generation, Operation::Connect);
    let collective: Box<dyn Collective> = match plan.backend() {
        Backend::Local => Box::new(Local),
        Backend::Gloo => Box::new(Gloo::connect(session.store(), rank, world, address, patience, abort)?),
        Backend::Nccl => {
            let place = match device(&generation) {
                Device::Cuda(ordinal) => Place::Cuda(ordinal),
                _ => Place::StandIn,
            };
            let (library, store) = (load_nccl()?, session.store());
            Box::new(Nccl::connect(library, &*store, (rank, world), place, patience, abort)?)
        }
    };
    session.connected();
    drop(waiting);
    let counted = Counted::new(collective, Arc::clone(generation.whereabouts()));
    Ok(Box::new(match noted {
        Some(calls) if world > 1 => counted.noting(calls),
        _ => counted,
    }))
}

impl Session {
    /// Whether an error ends no more than the generation.
    pub(super) fn outlives(&self, e: &TrainError) -> bool {
        self.survives() && self.abort_reason().is_none() && e.is_peers()
    }
}
