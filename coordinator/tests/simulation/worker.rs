//! What a worker registers as.

use octrain_proto::PROTOCOL_VERSION;
use octrain_proto::v1::{Capabilities, JobSpec, RegisterRequest, WorkerFacts};
use std::sync::LazyLock;

static JOB: LazyLock<JobSpec> = LazyLock::new(|| super::facts::job(42));

/// Host and local index of a place: two workers a host.
pub fn place(place: usize) -> (String, u32) {
    (format!("host{}", place / 2), (place % 2) as u32)
}

/// Process id.
pub fn pid(process: usize) -> u32 {
    1000 + process as u32
}

/// What its launcher knows it by.
pub fn token(process: usize) -> String {
    format!("of {process}")
}

/// The registration of a process at a place.
pub fn request(process: usize, at: usize) -> RegisterRequest {
    let (host, local_index) = place(at);
    let capabilities = Capabilities { cpu_cores: 4, ..Capabilities::default() };
    RegisterRequest {
        protocol_version: PROTOCOL_VERSION,
        job_id: "octrain".into(),
        generation: 0,
        nonce: format!("{process}"),
        token: token(process),
        worker: Some(WorkerFacts {
            host,
            local_index,
            local_world: 2,
            pid: pid(process),
            capabilities: Some(capabilities),
        }),
        job: Some(JOB.clone()),
    }
}
