//! Octrain's coordinator: membership, ranks, build strategy, liveness, and the store the collectives meet in.

mod accept;
pub mod certificates;
pub mod chronicle;
pub mod clock;
pub mod config;
mod driver;
pub mod exit_code;
mod fence;
mod grpc_status;
mod guard;
mod hex;
pub mod job;
pub mod journal;
pub mod limits;
pub mod liveness;
mod log;
pub mod membership;
pub mod outlet;
mod parked;
pub mod plan;
pub mod ranks;
pub mod refusal;
pub mod resize;
mod secret_file;
pub mod server;
mod service;
pub mod spec;
pub mod speed;
pub mod store;
pub mod strategy;
pub mod term;
pub mod text;
pub mod tls;
pub mod token;

pub use config::CoordinatorConfig;
pub use job::Outcome;
pub use server::serve;

use octrain_proto::v1::WorkerFacts;
use ranks::Place;

/// Where a worker is.
pub fn place_of(worker: &WorkerFacts) -> Place {
    Place { host: worker.host.clone(), local_index: worker.local_index }
}
