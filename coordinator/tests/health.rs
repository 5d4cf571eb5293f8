//! Probes: what grpc.health.v1 says of a coordinator, to whom, and what it says to nobody.

mod process;
mod raw;
mod worker;

use octrain_proto::v1::GiveUpRequest;
use octrain_proto::v1::coordinator_server::SERVICE_NAME;
use process::{end, signal, start};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;
use worker::LONG;

async fn client(address: SocketAddr) -> HealthClient<Channel> {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    HealthClient::new(channel)
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

async fn check(client: &mut HealthClient<Channel>, service: &str) -> Result<ServingStatus, Status> {
    client.check(of(service)).await.map(|answer| answer.into_inner().status())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_needs_no_token_and_learns_whether_the_coordinator_takes_part() {
    let mut token = tempfile::NamedTempFile::new().unwrap();
    token.write_all(b"the-token-of-this-job").unwrap();
    let line =
        ["--world-size", "1", "--linger-for-late", "600", "--token-file", token.path().to_str().unwrap()];
    let (child, address) = start(&line);
    let mut probe = client(address).await;
    for service in ["", SERVICE_NAME] {
        assert_eq!(check(&mut probe, service).await.unwrap(), Serving, "{service}");
    }
    assert_eq!(check(&mut probe, "octrain.v1.Other").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(check(&mut probe, &"x".repeat(2000)).await.unwrap_err().code(), Code::OutOfRange);
    // All else needs it.
    let mut stranger = raw::Raw::connect(address).await;
    let refused = stranger.call("Status", Vec::new(), None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut told = probe.watch(of(SERVICE_NAME)).await.unwrap().into_inner();
    let mut next = async || {
        let told = tokio::time::timeout(LONG, told.message()).await.expect("in time");
        told.unwrap().map(|answer| answer.status())
    };
    assert_eq!(next().await, Some(Serving));
    signal("TERM", &child);
    assert_eq!(next().await, Some(NotServing));
    let (status, log) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
    assert_eq!(status.code(), Some(4), "{log}");
    assert!(!log.contains("the-token-of-this-job"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_whose_job_has_failed_answers_and_serves_no_more() {
    let (mut child, address) = start(&["--world-size", "2", "--linger-for-late", "600"]);
    let mut probe = client(address).await;
    let (job_id, host, message) = ("octrain".into(), "a".into(), "it has no images".into());
    let request = GiveUpRequest { job_id, host, message, workers: 1, ..GiveUpRequest::default() };
    worker::client(address).await.give_up(request).await.unwrap();
    let until = std::time::Instant::now() + LONG;
    while check(&mut probe, SERVICE_NAME).await.unwrap() == Serving {
        assert!(std::time::Instant::now() < until, "it serves on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Whoever would restart what does not answer has no reason to.
    assert_eq!(check(&mut probe, "").await.unwrap(), Serving);
    child.kill().unwrap();
    child.wait().unwrap();
}
