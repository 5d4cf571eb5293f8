//! This worker among the others of one generation.

use super::SessionOptions;
use crate::collective::{Abort, Whereabouts};
use crate::strategy::Device;
use octrain_proto::v1::{self, Arrival, BuildPlan, CudaDevice, Placement};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Who the workers of a generation are, and when it is over. A job that ends with any of its workers has one.
#[derive(Debug)]
pub struct Generation {
    formed: v1::Generation,
    /// Trips once it is over, or the job is.
    abort: Abort,
    connected: AtomicBool,
    /// How this worker came to it, once it has.
    arrival: OnceLock<Arrival>,
    joins: bool,
    at: Arc<Whereabouts>,
}

impl Generation {
    pub(crate) fn new(formed: v1::Generation) -> Self {
        let (abort, connected, at) = (Abort::new(), AtomicBool::new(false), Arc::default());
        Self { formed, abort, connected, arrival: OnceLock::new(), joins: false, at }
    }

    /// The place of a worker that comes to a running job, alone, until it is let in.
    pub(super) fn joining(formed: v1::Generation) -> Self {
        Self { joins: true, ..Self::new(formed) }
    }

    /// Before there is one: that of the registration.
    pub(super) fn none(number: u64) -> Self {
        Self::new(v1::Generation { number, ..v1::Generation::default() })
    }

    /// Says what it took this worker to come to it: to be connected to the others, and then to have the state that all have. The
    /// reports of its steps tell the coordinator.
    pub fn arrived(&self, connect: Duration, agree: Duration) {
        let (connect_seconds, agree_seconds) = (connect.as_secs_f64(), agree.as_secs_f64());
        self.arrival.get_or_init(|| Arrival { connect_seconds, agree_seconds });
    }

    /// What [`Generation::arrived`] was told.
    pub(super) fn arrival(&self) -> Option<Arrival> {
        self.arrival.get().copied()
    }

    /// Its number, from 1.
    pub fn number(&self) -> u64 {
        self.formed.number
    }

    /// This worker's rank in it.
    pub fn rank(&self) -> u32 {
        self.formed.rank
    }

    /// Workers in it.
    pub fn world_size(&self) -> u32 {
        self.formed.roster.len() as u32
    }

    /// All workers, in the order of their ranks.
    pub fn roster(&self) -> &[Placement] {
        &self.formed.roster
    }

    /// This worker's own place.
    pub fn mine(&self) -> Option<&Placement> {
        self.formed.roster.get(self.formed.rank as usize)
    }

    /// The rank whose state all others take on; none where all begin.
    pub fn source(&self) -> Option<u32> {
        self.formed.source
    }

    /// Whether this worker has come to a running job and is in none of its generations yet: it is alone here, and attaches once it
    /// is ready.
    pub fn joins(&self) -> bool {
        self.joins
    }

    /// The workers that came to the running job for this generation, and have no state yet.
    pub fn joined(&self) -> impl Iterator<Item = &Placement> {
        self.formed.joined.iter().filter_map(|rank| self.formed.roster.get(*rank as usize))
    }

    /// Trips once this generation is over, or the job is.
    pub fn abort(&self) -> &Abort {
        &self.abort
    }

    /// Where this worker says which collectives of the generation it enters, and waits in; heartbeats tell it.
    pub fn whereabouts(&self) -> &Arc<Whereabouts> {
        &self.at
    }

    /// The generation as it was sent, to be shown.
    pub fn formed(&self) -> &v1::Generation {
        &self.formed
    }

    pub(super) fn connect(&self) {
        self.connected.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }
}

/// What tells this worker from the others.
pub(super) struct Own {
    host: String,
    local_index: u32,
    gpus: Vec<CudaDevice>,
}

impl Own {
    /// The worker of a session with these options.
    pub(super) fn of(options: &SessionOptions) -> Self {
        let SessionOptions { host, local_index, capabilities, .. } = options;
        Self { host: host.clone(), local_index: *local_index, gpus: capabilities.cuda_devices.clone() }
    }

    /// Whether a place is this worker's, and names a GPU, if one, that this process sees under that number.
    fn has(&self, plan: &BuildPlan, p: &Placement) -> Result<(), String> {
        if p.host != self.host || p.local_index != self.local_index {
            return Err(format!("rank {} of its roster is not this worker", p.rank));
        }
        match (plan.device(), p.cuda_device) {
            (Device::Cpu, None) => Ok(()),
            (Device::Cuda, Some(ordinal)) => match self.gpus.get(ordinal as usize) {
                Some(gpu) if gpu.uuid == p.cuda_uuid => Ok(()),
                _ => Err(format!("cuda:{ordinal} of this process is not the GPU {} it names", p.cuda_uuid)),
            },
            (_, ordinal) => Err(format!("it says {:?} and names the GPU {ordinal:?}", plan.device())),
        }
    }
}

/// Whether a generation is one of this plan, in which `own` has the place that it is told.
pub(super) fn trust(formed: &v1::Generation, plan: &BuildPlan, own: &Own) -> Result<(), String> {
    if formed.plan_sha256 != plan.sha256 {
        return Err(format!("generation {} is one of another plan", formed.number));
    }
    if formed.source.is_some_and(|rank| rank as usize >= formed.roster.len()) {
        return Err(format!("generation {} has no rank that its state is to come from", formed.number));
    }
    let whole = formed.roster.iter().zip(0..).all(|(place, rank)| place.rank == rank);
    match formed.roster.get(formed.rank as usize) {
        Some(mine) if whole => own.has(plan, mine),
        _ => Err(format!("rank {} of its roster is not this worker", formed.rank)),
    }
}
