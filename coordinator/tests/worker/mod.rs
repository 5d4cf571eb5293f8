//! A worker that only talks: registers, asks, sends heartbeats. Each test binary uses a part of it.
#![allow(dead_code)]

use octrain_coordinator::spec;
use octrain_core::strategy::Purpose;
use octrain_proto::v1::coordinator_client::CoordinatorClient;
use octrain_proto::v1::*;
use octrain_proto::{PROTOCOL_VERSION, REFUSAL_KEY};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::Status;
use tonic::transport::Channel;

pub type Client = CoordinatorClient<Channel>;

pub const LONG: Duration = Duration::from_secs(20);

/// A connection of its own.
pub async fn client(address: SocketAddr) -> Client {
    CoordinatorClient::connect(format!("http://{address}")).await.unwrap()
}

pub fn job(seed: u64) -> JobSpec {
    let config = json!({
        "batch-size": 32, "global-batch-size": null, "epochs": 8, "max-steps": 0, "benchmark": false, "seed": seed,
        "amp": "bf16", "scale-loss": 1.0, "use-dynamic-loss-scaling": false, "data-layout": "NHWC",
        "qat": true, "target": "openvino", "qat-calibration-images": 512, "qat-freeze-observers": 0.8,
        "qat-freeze-bn": 0.9, "qat-observer-momentum": 0.9, "qat-pass-through": false, "qat-skip": [],
        "qat-observer": "moving-average", "qat-percentile": 99.99, "qat-weight-bits": 8, "qat-reduce-range": false,
        "qat-learn-scales": false, "qat-int8-forward": false, "qat-bn-images": 0, "qat-distill": false, "qat-distill-weight": 0.5, "qat-distill-temperature": 4.0,
        "model-ema": false, "model-ema-decay": 0.99998, "model-ema-steps": 32,
        "device": "cpu", "threads": 0, "bucket-mib": 25.0, "reduce-dtype": "fp32",
    });
    let model = ModelFacts { name: "ResNet20".into(), parameters: 272_474, layers: 22, batch_norms: 21 };
    spec::spec(&config, Purpose::Train, model, 50_000)
}

pub fn request(host: &str, local_index: u32) -> RegisterRequest {
    RegisterRequest {
        protocol_version: PROTOCOL_VERSION,
        job_id: "octrain".into(),
        generation: 0,
        nonce: format!("{host}/{local_index}"),
        token: String::new(),
        worker: Some(WorkerFacts {
            host: host.into(),
            local_index,
            local_world: 2,
            pid: 1000 + local_index,
            capabilities: Some(Capabilities { cpu_cores: 4, ..Capabilities::default() }),
        }),
        job: Some(job(42)),
    }
}

/// A worker with a connection of its own, so that dropping it breaks one.
pub struct Worker {
    pub client: Client,
    pub header: Header,
}

impl Worker {
    pub async fn join(address: SocketAddr, request: RegisterRequest) -> Result<Worker, Status> {
        let mut client = client(address).await;
        let r = client.register(request).await?.into_inner();
        Ok(Worker { client, header: Header { job_id: r.job_id, generation: r.generation, member: r.member } })
    }

    pub fn header(&self) -> Option<Header> {
        Some(self.header.clone())
    }

    pub async fn plan(&mut self, wait_ms: u64) -> Result<GetPlanReply, Status> {
        Ok(self.client.get_plan(GetPlanRequest { header: self.header(), wait_ms }).await?.into_inner())
    }

    pub async fn beat(&mut self, step: u64) -> Result<Option<Abort>, Status> {
        Ok(self
            .client
            .heartbeat(HeartbeatRequest {
                header: self.header(),
                step,
                connected: true,
                ..HeartbeatRequest::default()
            })
            .await?
            .into_inner()
            .abort)
    }

    /// Sends heartbeats until the job is ended, and returns why.
    pub async fn until_abort(&mut self) -> Abort {
        let beats = async {
            loop {
                if let Some(abort) = self.beat(0).await.unwrap() {
                    return abort;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LONG, beats).await.expect("the job is ended in time")
    }

    pub async fn leave(mut self) {
        self.client
            .leave(LeaveRequest { header: self.header(), interrupted: false, before_plan: false })
            .await
            .unwrap();
    }
}

pub fn kind(status: &Status) -> &str {
    status.metadata().get(REFUSAL_KEY).unwrap().to_str().unwrap()
}
