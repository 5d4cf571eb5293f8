//! A coordinator that is stopped for a while and goes on: nobody is taken for dead for it, and it does not drown in
//! its own log.

mod process;
mod worker;

use octrain_proto::v1::{HeartbeatRequest, JobPhase, StatusRequest, WatchRequest};
use process::{end, signal, start};
use std::time::Duration;
use worker::{Worker, client, request};

/// A job of two, whose coordinator is stopped once for so long; returns its log.
async fn stalled(stall: Duration) -> String {
    let (child, address) = start(&["--world-size", "2"]);
    let mut beating = Vec::new();
    let mut workers = Vec::new();
    for i in 0..2 {
        let w = Worker::join(address, request("a", i)).await.unwrap();
        let (mut own, header) = (w.client.clone(), w.header());
        beating.push(tokio::spawn(async move {
            loop {
                let request = HeartbeatRequest {
                    header: header.clone(),
                    step: 1,
                    connected: true,
                    ..Default::default()
                };
                // Unanswered while the coordinator stands still, like a worker's.
                let answer = tokio::time::timeout(Duration::from_secs(5), own.heartbeat(request)).await;
                if let Ok(Ok(reply)) = answer {
                    assert_eq!(reply.into_inner().abort, None, "after a stall of {stall:?}");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }));
        workers.push(w);
    }
    // So that the stall begins with some silence already counted.
    tokio::time::sleep(Duration::from_millis(700)).await;
    signal("STOP", &child);
    tokio::time::sleep(stall).await;
    signal("CONT", &child);
    // Long enough for every deadline that a stall may have moved.
    tokio::time::sleep(Duration::from_millis(7500)).await;
    let status = client(address).await.status(StatusRequest::default()).await.unwrap().into_inner();
    assert_eq!(status.phase(), JobPhase::Running, "after a stall of {stall:?}: {}", status.message);
    beating.iter().for_each(tokio::task::JoinHandle::abort);
    for w in workers {
        w.leave().await;
    }
    let (status, log) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
    assert_eq!(status.code(), Some(0), "after a stall of {stall:?}: {log}");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_gave_up_a_stopped_coordinator_are_not_blamed() {
    let (child, address) = start(&["--world-size", "2", "--heartbeat-timeout", "1"]);
    let mut workers = Vec::new();
    for i in 0..2 {
        let mut w = Worker::join(address, request("a", i)).await.unwrap();
        let watch = w.client.watch(WatchRequest { header: w.header() }).await.unwrap();
        workers.push((w, watch));
    }
    signal("STOP", &child);
    // As workers do after twice the time-out.
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(workers);
    signal("CONT", &child);
    let (status, log) = tokio::task::spawn_blocking(move || end(child)).await.unwrap();
    assert_eq!(status.code(), Some(3), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.contains("the coordinator itself stood still for"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_job_outlives_every_stall_of_its_coordinator() {
    let stalls: Vec<_> = [500, 1500, 2500, 3500, 4000, 4500, 4900, 5100, 5500, 7000, 9000]
        .map(|ms| (ms, tokio::spawn(stalled(Duration::from_millis(ms)))))
        .into();
    for (ms, one) in stalls {
        let log = one.await.unwrap();
        assert!(log.lines().count() < 30, "{} lines after a stall of {ms} ms: {log}", log.lines().count());
        if ms >= 2500 {
            assert_eq!(log.matches("was held up for").count(), 1, "{log}");
        }
    }
}
